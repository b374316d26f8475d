package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/state/repository"
)

// defaultParallel is plans.PlanSpec.MaxParallel when the plan says nothing.
const defaultParallel = 8

// execution is one process's work on one run.
type execution struct {
	*Runner
	id     string
	plan   *plans.Checked
	header journal.Header
	recovery

	repository *repository.Repository
	journal    *journal.Journal
	ledger     *ledger
	slots      chan struct{} // bounds the tasks of all steps
	board      *board        // what others see of the running tasks
	observing  sync.Once
	observer   Observer // see told

	failed chan error // the first failed append of a finding; the loop stops the run
}

// journalError wraps the error of an append: nothing may be done after it.
type journalError struct{ err error }

func (e *journalError) Error() string { return "the journal cannot be written: " + e.err.Error() }
func (e *journalError) Unwrap() error { return e.err }

func (r *Runner) newExecution(id string, plan *plans.Checked, to recovery) *execution {
	x := &execution{Runner: r, id: id, plan: plan, recovery: to, failed: make(chan error, 1), board: newBoard()}
	x.ledger = newLedger(plan.Plan, r.fansOut, x.append)
	parallel := plan.Plan.Spec.MaxParallel
	if parallel == 0 {
		parallel = defaultParallel
	}
	x.slots = make(chan struct{}, parallel)
	return x
}

func (r *Runner) fansOut(uses string) bool {
	definition, ok := r.definitions[uses]
	if !ok {
		return false
	}
	_, fans := definition.New().(FanOut)
	return fans
}

// open opens the plan's repository and turns "latest" into the point it means now.
func (x *execution) open(ctx context.Context) error {
	if x.plan.Repository == nil {
		return nil
	}
	opened, err := x.Repository(ctx, x.plan.Repository)
	if err != nil {
		return err
	}
	x.repository = opened
	if x.Point == "" {
		return nil
	}
	point, err := opened.Point(ctx, x.Point)
	if err != nil {
		return errors.Join(err, x.close(ctx))
	}
	if x.Point != point.ID || x.Instant.IsZero() { // a run that is resumed knows both: observers may read them meanwhile
		x.Point, x.Instant = point.ID, point.Instant
	}
	return nil
}

func (x *execution) close(ctx context.Context) error {
	if x.repository == nil {
		return nil
	}
	err := x.repository.Close(ctx)
	x.repository = nil
	return err
}

func (x *execution) start(ctx context.Context) (*Report, error) {
	if err := x.preflight(ctx); err != nil {
		return nil, err
	}
	if err := x.Store.Create(ctx, x.header); err != nil {
		return nil, err
	}
	owned, err := x.Store.Acquire(ctx, x.id)
	if err != nil {
		return nil, err
	}
	x.journal = owned
	return x.work(ctx, RunStarted)
}

// own makes this process the run's owner, and brings the ledger to where the journal is.
func (x *execution) own(ctx context.Context) error {
	owned, err := x.Store.Acquire(ctx, x.id)
	if err != nil {
		return err
	}
	x.journal = owned
	events, err := owned.Events(ctx)
	if err == nil {
		err = x.ledger.replay(events)
	}
	if err != nil {
		return errors.Join(err, x.release(ctx))
	}
	x.told().Replayed(events)
	return nil
}

func (x *execution) release(ctx context.Context) error {
	return x.journal.Release(context.WithoutCancel(ctx))
}

func (x *execution) resume(ctx context.Context) (*Report, error) {
	if err := x.own(ctx); err != nil {
		return nil, err
	}
	if err := x.takeOver(ctx); err != nil {
		return nil, errors.Join(err, x.release(ctx))
	}
	switch {
	case x.ledger.run.state() == RunStateUndoing, x.ledger.run.state() == RunStateUndoFailed:
		return x.goOnUndoing(ctx)
	case ends(x.ledger.stop()):
		return x.endAsAsked(ctx) // it died between the request and the end that it led to
	}
	return x.work(ctx, RunResumed)
}

// takeOver records what an owner that died could not: that its tasks and its run were interrupted. A run
// that is being cancelled stays that, so that an adopter still finds it if this process dies, too.
func (x *execution) takeOver(ctx context.Context) error {
	state := x.ledger.run.state()
	if isFinal(state) {
		return fault.Newf("resume run", fault.Exists, x.id, "it has ended already: %s", state)
	}
	for _, step := range x.ledger.steps {
		for _, t := range step.all() {
			if err := x.interrupt(ctx, t); err != nil {
				return err
			}
		}
	}
	working := state == RunStateRunning && !ends(x.ledger.stop())
	if !working && state != RunStatePending {
		return nil
	}
	return x.moveRun(ctx, RunInterrupted, Failure{Kind: fault.Transient.String(), Error: "the process that ran it died"})
}

// work runs everything that is left and concludes the run.
func (x *execution) work(ctx context.Context, how string) (*Report, error) {
	defer x.release(ctx) //nolint:errcheck // the lease ends by itself
	if x.plan.Repository != nil && x.repository == nil {
		if err := x.open(ctx); err != nil {
			return nil, err
		}
	}
	if err := x.loadReceipts(ctx); err != nil {
		return nil, err
	}
	if err := x.lock(ctx); err != nil {
		return nil, err
	}
	if err := x.moveRun(ctx, how, nil); err != nil {
		return nil, err
	}
	stopBoard := x.board.publish(ctx, x.journal)
	err := x.loop(ctx)
	stopBoard()
	err = x.conclude(ctx, err)
	return x.report(), err
}

// stepResult is how one step's goroutine ended.
type stepResult struct {
	step *stepState
	err  error
}

// loop starts steps as what they need has ended, until nothing runs and nothing is ready.
func (x *execution) loop(ctx context.Context) error {
	w := newWorkers(ctx, x)
	defer w.end()
	for {
		if w.mayStart() {
			w.startReady()
		}
		if w.active == 0 {
			return w.outcome()
		}
		select {
		case result := <-w.results:
			w.ended(result)
		case err := <-x.failed:
			w.stop(err)
		case command := <-x.journal.Commands():
			w.command(command)
		case <-w.deadline:
			w.stop(fault.Newf("run plan", fault.Transient, x.id, "not done after its deadline of %s; go on with: muster runs resume %s", time.Duration(x.plan.Plan.Spec.Deadline), x.id))
			w.deadline = nil
		case <-x.journal.Lost():
			w.stop(x.fenced())
			w.drain()
		}
	}
}

// startReady starts every step whose needs have ended well.
func (w *workers) startReady() {
	for _, step := range w.ledger.steps {
		if w.begun[step.spec.ID] || w.execution.ended(step) || !w.needsMet(step) {
			continue
		}
		w.begun[step.spec.ID] = true
		w.active++
		go func() { w.results <- stepResult{step, w.runStep(w.contextOf(step), step)} }()
	}
}

func (x *execution) needsMet(step *stepState) bool {
	for _, need := range step.spec.Needs {
		if !x.ended(x.ledger.byID[need]) {
			return false
		}
	}
	return true
}

// ended reports whether a step came to an end that others can go on from: verified, left out by its
// condition or by an operator, or failed where the plan calls it optional.
func (x *execution) ended(step *stepState) bool {
	if step.whole.state() == TaskSkipped || step.spec.Optional && step.failed() {
		return true
	}
	x.ledger.mu.Lock()
	tasks, known := step.work(), !step.fans || step.items != nil
	x.ledger.mu.Unlock()
	for _, t := range tasks {
		if t.state() != TaskVerified {
			return false
		}
	}
	return known
}

// runStep evaluates the step's condition, expands its items and runs them.
func (x *execution) runStep(ctx context.Context, step *stepState) error {
	wanted, err := x.wanted(step)
	if err != nil {
		return errors.Join(err, x.failWhole(ctx, step, err))
	}
	if !wanted {
		return x.move(ctx, StepSkipped, step.whole, nil)
	}
	if step.fans && step.items == nil {
		if err := x.expand(ctx, step); err != nil {
			return err
		}
	}
	return x.runItems(ctx, step)
}

func (x *execution) expand(ctx context.Context, step *stepState) error {
	items, err := x.itemsOf(ctx, step)
	if err != nil {
		return errors.Join(fmt.Errorf("step %s: list items: %w", step.spec.ID, err), x.failWhole(ctx, step, err))
	}
	return x.record(ctx, StepItems, step.spec.ID, "", 0, items, nil)
}

// failWhole journals an error that belongs to a step before it has items.
func (x *execution) failWhole(ctx context.Context, step *stepState, cause error) error {
	if ctx.Err() != nil {
		return nil
	}
	if err := x.move(ctx, StepIntent, step.whole, nil); err != nil {
		return err
	}
	return x.move(ctx, StepFailed, step.whole, failure(cause))
}

func (x *execution) runItems(ctx context.Context, step *stepState) error {
	group := errgroup.Group{}
	group.SetLimit(cap(x.slots))
	if step.spec.MaxParallel > 0 {
		group.SetLimit(step.spec.MaxParallel)
	}
	var broken failedFlag
	var mu sync.Mutex
	var failures []error
	for _, t := range step.work() {
		if t.state() == TaskVerified {
			continue
		}
		group.Go(func() error {
			if broken.stops(step.spec.OnFailure) || !x.takeSlot(ctx, step) {
				return nil
			}
			defer x.freeSlot(step)
			if err := x.runTask(ctx, step.spec, t); err != nil {
				broken.set()
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, inTask(t, err))
			}
			return nil
		})
	}
	_ = group.Wait() // the tasks' errors are in failures: all of them, not the first alone
	return errors.Join(failures...)
}

// failedFlag keeps further items from starting once one has failed.
type failedFlag struct {
	mu     sync.Mutex
	failed bool
}

func (f *failedFlag) set() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = true
}

func (f *failedFlag) stops(policy plans.OnFailure) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed && policy != plans.OnFailureContinue
}

// takeSlot waits for a place among the tasks that run; steps that only wait need none.
func (x *execution) takeSlot(ctx context.Context, step *stepState) bool {
	if x.definitions[step.spec.Uses].Waits {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case x.slots <- struct{}{}:
	}
	if ctx.Err() != nil { // both were there, and select took one of them
		<-x.slots
		return false
	}
	return true
}

func (x *execution) freeSlot(step *stepState) {
	if !x.definitions[step.spec.Uses].Waits {
		<-x.slots
	}
}

func inTask(t *task, err error) error {
	if t.item == "" {
		return fmt.Errorf("step %s: %w", t.step, err)
	}
	return fmt.Errorf("step %s, %s: %w", t.step, t.item, err)
}
