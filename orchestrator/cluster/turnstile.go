package cluster

import (
	"context"
	"sync"
)

// turnstile bounds how many requests are under way at once. It closes by half when the server asks for
// patience, and opens by one after as many requests as it lets through were answered.
type turnstile struct {
	most int

	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, when somebody may come in
	limit   int
	inside  int
	good    int // requests answered since the limit changed
}

func newTurnstile(most int) *turnstile {
	return &turnstile{most: most, limit: most, changed: make(chan struct{})}
}

// enter waits for a place.
func (t *turnstile) enter(ctx context.Context) error {
	for {
		t.mu.Lock()
		if t.inside < t.limit {
			t.inside++
			t.mu.Unlock()
			return nil
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leave gives the place back; answered says that there was an answer.
func (t *turnstile) leave(answered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inside--
	if answered {
		t.good++
	}
	if t.good >= t.limit && t.limit < t.most {
		t.limit, t.good = t.limit+1, 0
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// narrow is told of every 429.
func (t *turnstile) narrow() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit, t.good = max(1, t.limit/2), 0
}
