package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/journal"
)

func runnerThroughput() benchmark {
	return benchmark{
		name: "runner-throughput", unit: "items/s", against: "fenced transactions by as many clients", runs: 3,
		how: "A plan with one step of 10,000 empty items, 64 at a time, on an embedded etcd that syncs every write to disk: three events an item. " +
			"The reference are 64 clients that append as many events through the same journal, each its share one after the other; they share transactions as tasks do.",
		prepare: prepareRunnerThroughput,
	}
}

const (
	throughputItems   = 10_000
	memoryItems       = 50_000
	throughputClients = 64
)

// throughputBench is a checked plan whose only step fans out.
type throughputBench struct {
	runnerBench
	memory string
}

// emptyItems is emptyStep on many items.
type emptyItems struct {
	emptyStep
	n int
}

// Items implements orchestrator.FanOut.
func (s emptyItems) Items(ctx context.Context, _ *orchestrator.Run) ([]string, error) {
	items := make([]string, 0, s.n)
	for i := range s.n {
		items = append(items, fmt.Sprintf("item-%05d", i))
	}
	return items, ctx.Err()
}

func prepareRunnerThroughput(_ context.Context, on *stage) (sides, error) {
	b := &throughputBench{runnerBench: runnerBench{on: on}}
	err := b.items(throughputItems)
	return sides{ours: b.ours, reference: b.reference, notes: b.notes}, err
}

// items makes the plan for so many items.
func (b *throughputBench) items(n int) error {
	b.definitions = []orchestrator.Definition{{
		ID: "empty", Summary: "do nothing, many times", Purposes: []plans.Purpose{plans.Drill}, New: func() orchestrator.Step { return &emptyItems{n: n} },
	}}
	text := fmt.Sprintf("apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: bench}\nspec:\n  purpose: drill\n  maxParallel: %d\n  steps: [{id: many, uses: empty}]\n", throughputClients)
	set, err := plans.Read("plan.yaml", strings.NewReader(text))
	if err != nil {
		return err
	}
	b.plan, err = plans.CheckSteps(set, "bench", orchestrator.Vocabulary(b.definitions))
	return err
}

func (b *throughputBench) ours(ctx context.Context) (rate float64, err error) {
	err = b.withStore(ctx, func(store *journal.Store) error {
		taken, err := b.run(ctx, store)
		rate = each(throughputItems, taken)
		return err
	})
	if err == nil && b.memory == "" {
		err = b.measureMemory(ctx)
	}
	return rate, err
}

func (b *throughputBench) run(ctx context.Context, store *journal.Store) (time.Duration, error) {
	runner := orchestrator.NewRunner(orchestrator.Config{Store: store, Definitions: b.definitions, Observer: silence{}, Log: noLog(), Now: time.Now})
	began := time.Now()
	report, err := runner.Start(ctx, orchestrator.Request{ID: "run", Plan: b.plan})
	if err == nil && !report.Complete() {
		err = fmt.Errorf("the run is %s", report.State)
	}
	return time.Since(began), err
}

// measureMemory runs many more items, once, and keeps what the heap held at most.
func (b *throughputBench) measureMemory(ctx context.Context) error {
	if err := b.items(memoryItems); err != nil {
		return err
	}
	err := b.withStore(ctx, func(store *journal.Store) error {
		watching, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		var most uint64
		done.Go(func() { most = mostHeap(watching) })
		taken, err := b.run(ctx, store)
		stop()
		done.Wait()
		b.memory = fmt.Sprintf("%d items took %s; the heap, with the embedded etcd in it, held %d MiB at most.", memoryItems, taken.Round(100*time.Millisecond), most>>20)
		return err
	})
	if err != nil {
		return err
	}
	return b.items(throughputItems)
}

func mostHeap(ctx context.Context) (most uint64) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		most = max(most, stats.HeapInuse)
		select {
		case <-ctx.Done():
			return most
		case <-ticker.C:
		}
	}
}

func (b *throughputBench) reference(ctx context.Context) (rate float64, err error) {
	err = b.withStore(ctx, func(store *journal.Store) error {
		if err := store.Create(ctx, journal.Header{ID: "run", Plan: "bench", Created: time.Now(), Frozen: json.RawMessage("{}")}); err != nil {
			return err
		}
		owned, err := store.Acquire(ctx, "run")
		if err != nil {
			return err
		}
		began := time.Now()
		clients, working := errgroup.WithContext(ctx)
		for range throughputClients {
			clients.Go(func() error {
				for i := range throughputItems * eventsPerStep / throughputClients {
					event := journal.Event{Time: time.Now(), Type: orchestrator.StepIntent, Step: "many", Item: fmt.Sprintf("item-%05d", i), Attempt: 1}
					if _, err := owned.Append(working, event); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := clients.Wait(); err != nil {
			return err
		}
		rate = each(throughputItems, time.Since(began))
		return owned.Release(ctx)
	})
	return rate, err
}

func (b *throughputBench) notes() []string { return []string{b.memory} }
