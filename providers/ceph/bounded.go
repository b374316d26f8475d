//go:build cgo && ceph

package ceph

import (
	"context"
	"sync"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// grace is how long a call may go on after its context has ended: C code can't be interrupted, and it is
// better to see the end of an operation than to leave it behind.
const grace = 4 * time.Second

// bounded runs body and comes back soon after ctx ends, also when a C call hangs until its own timeout. What
// is left behind then ends by itself.
func bounded(ctx context.Context, op string, body func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return wrap(op, "", err)
	}
	done := make(chan error, 1)
	go func() { done <- body(ctx) }()
	select {
	case err := <-done:
		return ended(ctx, op, err)
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case err := <-done:
		return ended(ctx, op, err)
	case <-late.C:
		return wrap(op, "", ctx.Err())
	}
}

// ended says of a failure after the context's end that this was the reason.
func ended(ctx context.Context, op string, err error) error {
	if err != nil && ctx.Err() != nil {
		return fault.New(op, fault.Transient, "", ctx.Err())
	}
	return err
}

// gate lets calls of a callback through until it is closed, which waits for the one that is running.
type gate struct {
	mu     sync.Mutex
	closed bool
}

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

func (g *gate) pass(call func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return context.Canceled
	}
	return call()
}

// guarded is bounded for a body that calls back: never after it has returned.
func guarded[T any](ctx context.Context, op string, each func(T) error, body func(ctx context.Context, each func(T) error) error) error {
	var g gate
	defer g.close()
	return bounded(ctx, op, func(ctx context.Context) error {
		return body(ctx, func(item T) error { return g.pass(func() error { return each(item) }) })
	})
}

// keyed are locks by name within this process.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for the key and returns what lets go of it.
func (k *keyed) lock(ctx context.Context, key string) (func(), error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[string]chan struct{}{}
		}
		other := k.held[key]
		if other == nil {
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
