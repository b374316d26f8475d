package orchestrator

import (
	"context"
	"errors"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// move fires a task's transition, durable first.
func (x *execution) move(ctx context.Context, kind string, t *task, data any) error {
	return x.record(ctx, kind, t.step, t.item, t.attempt, data, nil)
}

func (x *execution) moveRun(ctx context.Context, kind string, data any) error {
	return x.record(ctx, kind, "", "", 0, data, nil)
}

// record journals an event and moves the ledger by it. The command that it obeys, if any, is removed
// from the run's inbox in the same transaction.
func (x *execution) record(ctx context.Context, kind, step, item string, attempt int, data any, command *journal.Command) error {
	event, err := newEvent(kind, step, item, attempt, data)
	if err != nil {
		return err
	}
	event.Time = x.Now().UTC().Truncate(time.Microsecond)
	return x.ledger.record(ctx, event, command)
}

// append makes an event durable. It outlives the caller's cancellation: an event that says what was
// done must not be lost because somebody pressed Ctrl-C.
func (x *execution) append(ctx context.Context, event *journal.Event, command *journal.Command) error {
	ctx = context.WithoutCancel(ctx)
	var appended []journal.Event
	var err error
	if command == nil {
		appended, err = x.journal.Append(ctx, *event)
	} else {
		appended, err = x.journal.Take(ctx, *command, *event)
	}
	if err != nil {
		return &journalError{err}
	}
	*event = appended[0]
	x.told().Journaled(*event)
	return nil
}

// find journals a finding of a task; when that fails, the loop stops the run.
func (x *execution) find(t *task, finding Finding) {
	if x.journal == nil { // a dry run reports nothing for keeps
		return
	}
	err := x.record(context.Background(), StepFinding, t.step, t.item, t.attempt, finding, nil)
	if err == nil {
		return
	}
	select {
	case x.failed <- err:
	default: // an earlier one stops the run already
	}
}

// view is what a task sees of its run.
func (x *execution) view(spec plans.Step, item string, progress Progress) *Run {
	return &Run{
		ID: x.id, Plan: x.header.Plan, PlanDigest: x.header.PlanDigest, Step: spec.ID, Item: item,
		Cluster: x.plan.Cluster, Machines: x.plan.Machines, Repository: x.repository, Point: x.Point,
		Log:      x.Log.With("run", x.id, "step", spec.ID, "item", item),
		Progress: progress, Now: x.Now,
		receipts: x.ledger, providers: x.Providers,
	}
}

// preflight calls Check for every step and item that is known so far, and returns every problem.
func (x *execution) preflight(ctx context.Context) error {
	var problems []error
	for _, step := range x.ledger.steps {
		if err := x.checkStep(ctx, step); err != nil {
			problems = append(problems, err)
		}
		if ctx.Err() != nil {
			return &Interrupted{fault.New("check plan", fault.Transient, x.plan.Plan.Metadata.Name, context.Cause(ctx))}
		}
	}
	return errors.Join(problems...)
}

func (x *execution) checkStep(ctx context.Context, step *stepState) error {
	return x.eachTask(ctx, step, func(worker Step, run *Run) error { return worker.Check(ctx, run) })
}

// preview lets the steps that can tell what they would change.
func (x *execution) preview(ctx context.Context, tell func(Change) error) error {
	for _, step := range x.ledger.steps {
		err := x.eachTask(ctx, step, func(worker Step, run *Run) error {
			if previewer, can := worker.(Previewer); can {
				return previewer.Preview(ctx, run, tell)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachTask works at every task of a step that is known before the plan runs.
func (x *execution) eachTask(ctx context.Context, step *stepState, work func(Step, *Run) error) error {
	items := []string{""}
	if x.plan.ReadsReceipts(step.spec) {
		return nil // nothing is known before the steps it reads from have run
	}
	if step.fans {
		listed, err := x.itemsOf(ctx, step)
		if err != nil {
			return inTask(step.whole, err)
		}
		items = listed
	}
	var problems []error
	for _, item := range items {
		t := &task{step: step.spec.ID, item: item}
		worker, err := x.newStep(step.spec, item)
		if err == nil {
			err = work(worker, x.view(step.spec, item, x.progressOf(t)))
		}
		if err != nil {
			problems = append(problems, inTask(t, err))
		}
	}
	return errors.Join(problems...)
}

// wanted evaluates the step's condition.
func (x *execution) wanted(step *stepState) (bool, error) {
	return x.plan.Wanted(step.spec, x.facts())
}

// itemsOf lists a step's items: the plan's own list, else the step's.
func (x *execution) itemsOf(ctx context.Context, step *stepState) ([]string, error) {
	if step.spec.ForEach != nil {
		return x.plan.Items(step.spec, x.facts())
	}
	worker, err := x.newStep(step.spec, "")
	if err != nil {
		return nil, err
	}
	return worker.(FanOut).Items(ctx, x.view(step.spec, "", x.progressOf(step.whole)))
}
