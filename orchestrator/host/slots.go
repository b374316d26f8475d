package host

import (
	"context"

	"github.com/musterdr/muster/providers/fault"
)

// slots bound how many calls are made at once; nil ones don't.
type slots chan struct{}

func newSlots(n int) slots {
	if n == 0 {
		return nil
	}
	return make(slots, n)
}

// take waits for a slot; the result gives it back.
func (s slots) take(ctx context.Context, subject string) (release func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	select {
	case s <- struct{}{}:
		return func() { <-s }, nil
	case <-ctx.Done():
		return nil, fault.New("wait for storage", fault.Transient, subject, ctx.Err())
	}
}
