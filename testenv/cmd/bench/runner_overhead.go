package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/journal"
)

func runnerOverhead() benchmark {
	return benchmark{
		name: "runner-overhead", unit: "events/s", against: "plain journal appends", runs: 3,
		how: "A plan of 1,000 empty steps that need nothing of each other, on an embedded etcd that syncs every write to disk. Ours is orchestrator.Runner.Start, from checks to report. " +
			"The reference appends as many events, fenced as always, one after the other through state/journal.",
		prepare: prepareRunnerOverhead,
	}
}

const (
	emptySteps    = 1_000
	eventsPerStep = 3 // intent, receipt, verified
	runEvents     = 2 // started, completed
	runnerEvents  = emptySteps*eventsPerStep + runEvents
)

// runnerBench is a checked plan.
type runnerBench struct {
	on          *stage
	definitions []orchestrator.Definition
	plan        *plans.Checked
}

// emptyStep does nothing, at once.
type emptyStep struct{}

func (emptyStep) Check(context.Context, *orchestrator.Run) error { return nil }

func (emptyStep) Do(context.Context, *orchestrator.Run, orchestrator.Receipt) (orchestrator.Receipt, error) {
	return orchestrator.Receipt("{}"), nil
}

func (emptyStep) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }

func (emptyStep) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }

func prepareRunnerOverhead(_ context.Context, on *stage) (sides, error) {
	r := &runnerBench{on: on, definitions: []orchestrator.Definition{{
		ID: "empty", Summary: "do nothing", Purposes: []plans.Purpose{plans.Drill}, New: func() orchestrator.Step { return &emptyStep{} },
	}}}
	var text strings.Builder
	text.WriteString("apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: bench}\nspec:\n  purpose: drill\n  steps:\n")
	for i := range emptySteps {
		fmt.Fprintf(&text, "    - {id: step-%d, uses: empty}\n", i)
	}
	set, err := plans.Read("plan.yaml", strings.NewReader(text.String()))
	if err != nil {
		return sides{}, err
	}
	r.plan, err = plans.CheckSteps(set, "bench", orchestrator.Vocabulary(r.definitions))
	return sides{ours: r.ours, reference: r.reference}, err
}

// withStore lets work have an embedded journal that is new.
func (r *runnerBench) withStore(ctx context.Context, work func(*journal.Store) error) error {
	store, err := journal.Open(ctx, journal.Config{Directory: r.on.fresh("journal"), Owner: "bench", Log: noLog()})
	if err != nil {
		return err
	}
	return errors.Join(work(store), store.Close())
}

func (r *runnerBench) ours(ctx context.Context) (rate float64, err error) {
	err = r.withStore(ctx, func(store *journal.Store) error {
		runner := orchestrator.NewRunner(orchestrator.Config{Store: store, Definitions: r.definitions, Observer: silence{}, Log: noLog(), Now: time.Now})
		began := time.Now()
		report, err := runner.Start(ctx, orchestrator.Request{ID: "run", Plan: r.plan})
		if err != nil {
			return err
		}
		rate = each(runnerEvents, time.Since(began))
		return complete(ctx, store, report)
	})
	return rate, err
}

// complete says whether the run did what it was to do.
func complete(ctx context.Context, store *journal.Store, report *orchestrator.Report) error {
	events, err := store.Events(ctx, "run", 0)
	if err != nil {
		return err
	}
	if len(events) != runnerEvents || !report.Complete() {
		return fmt.Errorf("the run is %s after %d events, want %d", report.State, len(events), runnerEvents)
	}
	return nil
}

func (r *runnerBench) reference(ctx context.Context) (rate float64, err error) {
	err = r.withStore(ctx, func(store *journal.Store) error {
		if err := store.Create(ctx, journal.Header{ID: "run", Plan: "bench", Created: time.Now(), Frozen: json.RawMessage("{}")}); err != nil {
			return err
		}
		owned, err := store.Acquire(ctx, "run")
		if err != nil {
			return err
		}
		began := time.Now()
		for i := range runnerEvents {
			event := journal.Event{Time: time.Now(), Type: orchestrator.StepIntent, Step: fmt.Sprintf("step-%d", i/eventsPerStep), Attempt: 1}
			if _, err := owned.Append(ctx, event); err != nil {
				return err
			}
		}
		rate = each(runnerEvents, time.Since(began))
		return owned.Release(ctx)
	})
	return rate, err
}
