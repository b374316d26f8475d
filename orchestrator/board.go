package orchestrator

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterdr/muster/state/journal"
)

// publishEvery is how often the owner of a run shows others how far its tasks are.
const publishEvery = time.Second

// board holds the newest update of every task that runs.
type board struct {
	mu      sync.Mutex
	running map[string]Update
	changed bool
}

func newBoard() *board { return &board{running: map[string]Update{}} }

func (b *board) put(u Update) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running[u.Step+"/"+u.Item], b.changed = u, true
}

func (b *board) drop(t *task) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.running, t.step+"/"+t.item)
	b.changed = true
}

// content is nil when nothing has changed since the last call.
func (b *board) content() json.RawMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.changed {
		return nil
	}
	b.changed = false
	updates := make([]Update, 0, len(b.running))
	for _, u := range b.running {
		updates = append(updates, u)
	}
	slices.SortFunc(updates, func(a, b Update) int { return strings.Compare(a.Step+"/"+a.Item, b.Step+"/"+b.Item) })
	raw, err := json.Marshal(updates)
	if err != nil {
		return nil // updates are plain values
	}
	return raw
}

// publish shows the board until the returned function is called. What can't be shown is no reason to
// stop: the journal has what counts.
func (b *board) publish(ctx context.Context, to *journal.Journal) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(publishEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if content := b.content(); content != nil {
				limited, cancel := context.WithTimeout(ctx, publishEvery)
				_ = to.Publish(limited, content)
				cancel()
			}
		}
	})
	return func() { cancel(); done.Wait() }
}
