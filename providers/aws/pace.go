package aws

import (
	"context"
	"sync"
)

// pace bounds how many block calls are on the way at once: one more after a round without throttling, half
// as many when AWS throttles.
type pace struct {
	mu     sync.Mutex
	most   float64
	limit  float64
	active int
	since  int           // calls that ended since the limit was halved
	wake   chan struct{} // closed when a place may be free
}

func newPace(most int) *pace {
	return &pace{most: float64(most), limit: float64(most), wake: make(chan struct{})}
}

// enter waits for a place.
func (p *pace) enter(ctx context.Context) error {
	for {
		p.mu.Lock()
		if p.active < int(p.limit) {
			p.active++
			p.mu.Unlock()
			return nil
		}
		wake := p.wake
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// leave gives the place back.
func (p *pace) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.since++
	p.limit = min(p.most, p.limit+1/p.limit)
	close(p.wake)
	p.wake = make(chan struct{})
}

// throttled halves the limit, once for all calls that were on the way together.
func (p *pace) throttled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since == 0 && p.limit < p.most {
		return
	}
	p.since = 0
	p.limit = max(1, p.limit/2)
}
