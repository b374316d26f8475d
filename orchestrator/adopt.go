package orchestrator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// adoptEvery is how often an adopter looks for runs whose process died.
const adoptEvery = 2 * time.Second

// Orphans lists the runs that were at work when their process died, or lost its lease.
func (r *Runner) Orphans(ctx context.Context) ([]journal.Header, error) {
	headers, err := r.Store.Runs(ctx)
	if err != nil {
		return nil, err
	}
	var orphans []journal.Header
	for _, header := range headers {
		_, alive, err := r.Store.Owner(ctx, header.ID)
		if err != nil {
			return nil, err
		}
		if alive {
			continue
		}
		state, err := r.Store.State(ctx, header.ID)
		if err != nil {
			return nil, err
		}
		switch state {
		case RunStarted, RunResumed, RunUndoing, RunPausing, RunCancelling:
			orphans = append(orphans, header)
		}
	}
	return orphans, nil
}

// Adopt goes on with orphaned runs, several at once, until ctx ends; with once, until those that there
// are now have ended. Processes that adopt at the same time never take the same run: its owner's key
// is one. What becomes of each run is told to ended.
func (r *Runner) Adopt(ctx context.Context, once bool, ended func(id string, report *Report, err error)) error {
	var working sync.WaitGroup
	defer working.Wait()
	var mu sync.Mutex
	busy := map[string]bool{}
	ticker := time.NewTicker(adoptEvery)
	defer ticker.Stop()
	for {
		orphans, err := r.Orphans(ctx)
		if err != nil && (once || !fault.KindOf(err).Retryable()) {
			return err
		}
		for _, orphan := range orphans {
			mu.Lock()
			taken := busy[orphan.ID]
			busy[orphan.ID] = true
			mu.Unlock()
			if taken {
				continue
			}
			working.Go(func() {
				report, err := r.Resume(ctx, orphan.ID)
				if !fault.Is(err, fault.Busy) { // somebody else was faster
					ended(orphan.ID, report, err)
				}
				mu.Lock()
				defer mu.Unlock()
				delete(busy, orphan.ID)
			})
		}
		if once {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return &Interrupted{fault.New("adopt runs", fault.Transient, "", context.Cause(ctx))}
		}
	}
}

// Tidy packs the journals of runs that have ended, and deletes those of them that are neither among
// the newest `keep` nor younger than `age`; zero means that this rule keeps all. It returns what it
// deleted, or would delete in a dry run.
func (r *Runner) Tidy(ctx context.Context, keep int, age time.Duration, dryRun bool) ([]journal.Header, error) {
	headers, err := r.Store.Runs(ctx) // newest first
	if err != nil {
		return nil, err
	}
	var deleted []journal.Header
	finals := 0
	var problems []error
	for _, header := range headers {
		report, err := r.Report(ctx, header.ID)
		if err != nil || !isFinal(report.State) {
			continue
		}
		finals++
		old := keep > 0 && finals > keep || age > 0 && r.Now().Sub(header.Created) > age
		switch {
		case !old && !dryRun:
			err = r.Store.Archive(ctx, header.ID)
		case old && !dryRun:
			err = r.Store.Delete(ctx, header.ID)
		}
		if old && err == nil {
			deleted = append(deleted, header)
		}
		problems = append(problems, err)
	}
	return deleted, errors.Join(problems...)
}
