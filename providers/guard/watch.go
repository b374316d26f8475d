package guard

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// ErrSilent is in the chain of an error of a call that was cancelled because the provider said nothing.
var ErrSilent = errors.New("the provider says nothing")

// life knows when a call last gave a sign of life.
type life struct {
	silence time.Duration
	mu      sync.Mutex
	timer   *time.Timer
	ours    int // how many goroutines are in Muster's own code, on behalf of the call
}

// sign is a sign of life.
func (l *life) sign() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ours == 0 {
		l.timer.Reset(l.silence)
	}
}

// pause stops the clock while Muster works; the result goes on.
func (l *life) pause() (resume func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ours++
	l.timer.Stop()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ours--; l.ours == 0 {
			l.timer.Reset(l.silence)
		}
	}
}

// watch makes a call, and cancels it when nothing is heard for too long.
func (g *Guard) watch(ctx context.Context, op string, call func(context.Context, *life) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l := &life{silence: g.config.Silence, timer: time.AfterFunc(g.config.Silence, func() { cancel(ErrSilent) })}
	defer l.timer.Stop()
	heard := providers.WithProgress(inner, func(p providers.Progress) {
		l.sign()
		providers.Report(ctx, g.progress(p))
	})
	err := call(heard, l)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(inner), ErrSilent) {
		return fault.Newf(op, fault.Transient, g.info.Name, "%w: no answer and no progress for %s, so the call was cancelled", ErrSilent, g.config.Silence)
	}
	return err
}

// maxProgress bounds a line of progress.
const maxProgress = 256

func (g *Guard) progress(p providers.Progress) providers.Progress {
	if len(p.Text) > maxProgress {
		p.Text = p.Text[:maxProgress]
	}
	p.Text = printable(p.Text)
	p.Done, p.Total = max(p.Done, 0), max(p.Total, 0)
	return p
}

// one makes a call with one answer.
func one[V any](ctx context.Context, g *Guard, op string, call func(context.Context) (V, error)) (V, error) {
	var answer V
	err := g.watch(ctx, op, func(ctx context.Context, _ *life) (err error) {
		answer, err = call(ctx)
		return err
	})
	if err != nil {
		var none V
		return none, err
	}
	return answer, nil
}

// list makes a call with many answers, each of which check must pass before it is handed on.
func list[V any](ctx context.Context, g *Guard, op string, call func(context.Context, func(V) error) error, check func(V) error, each func(V) error) error {
	var refused error
	err := g.watch(ctx, op, func(ctx context.Context, l *life) error {
		return call(ctx, func(v V) error {
			if refused != nil {
				return refused
			}
			resume := l.pause()
			defer resume()
			if refused = check(v); refused == nil {
				refused = each(v)
			}
			return refused
		})
	})
	if refused != nil { // also from a provider that makes another error of it, or none
		return refused
	}
	return err
}
