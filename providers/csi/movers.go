package csi

import (
	"context"
	"errors"
	"sync"
	"time"
)

// movers are the movers that read snapshots. One serves all reads of its snapshot, one after the other or at
// once; it goes when none came for a while, and when the provider is closed.
type movers struct {
	provider *Provider

	mu    sync.Mutex
	open  map[string]*reader
	locks map[string]*sync.Mutex
}

// reader is one mover with those that use it.
type reader struct {
	users int
	idle  *time.Timer
}

func newMovers(p *Provider) *movers {
	return &movers{provider: p, open: map[string]*reader{}, locks: map[string]*sync.Mutex{}}
}

// lock serialises what is done under a name: starting and removing one mover, serving one token.
func (m *movers) lock(name string) (unlock func()) {
	m.mu.Lock()
	l, ok := m.locks[name]
	if !ok {
		l = &sync.Mutex{}
		m.locks[name] = l
	}
	m.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// acquire starts a mover, or takes the one that runs. The release must be called.
func (m *movers) acquire(ctx context.Context, op string, pod moverPod) (release func(), err error) {
	defer m.lock(pod.name)()
	m.mu.Lock()
	r := m.open[pod.name]
	if r == nil {
		r = &reader{}
		m.open[pod.name] = r
	}
	r.users++
	if r.idle != nil {
		r.idle.Stop()
	}
	m.mu.Unlock()
	if err := m.provider.startMover(ctx, op, pod); err != nil {
		m.release(pod.name)
		return nil, err
	}
	return sync.OnceFunc(func() { m.release(pod.name) }), nil
}

func (m *movers) release(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.open[name]
	if r == nil {
		return
	}
	if r.users--; r.users == 0 {
		r.idle = time.AfterFunc(time.Duration(m.provider.settings.MoverIdle), func() { m.expire(name) })
	}
}

// expire removes an idle mover. What fails here is found by its label when the next provider is configured.
func (m *movers) expire(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(m.provider.settings.DeleteTimeout))
	defer cancel()
	if err := m.remove(ctx, "remove mover", name); err != nil && m.provider.config.Log != nil {
		m.provider.config.Log.Warn("a mover could not be removed; it ends by itself", "mover", name, "error", err)
	}
}

// remove removes a mover that nobody uses.
func (m *movers) remove(ctx context.Context, op, name string) error {
	defer m.lock(name)()
	m.mu.Lock()
	r := m.open[name]
	if r != nil && r.users > 0 {
		m.mu.Unlock()
		return nil
	}
	if r != nil && r.idle != nil {
		r.idle.Stop()
	}
	delete(m.open, name)
	m.mu.Unlock()
	return m.provider.removeMover(ctx, op, name)
}

func (m *movers) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(m.provider.settings.DeleteTimeout))
	defer cancel()
	m.mu.Lock()
	var names []string
	for name, r := range m.open {
		r.users = 0
		names = append(names, name)
	}
	m.mu.Unlock()
	var problems []error
	for _, name := range names {
		problems = append(problems, m.remove(ctx, "close", name))
	}
	return errors.Join(problems...)
}
