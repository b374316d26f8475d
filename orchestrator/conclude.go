package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// conclude records how the run ended and returns the error that its caller is told.
func (x *execution) conclude(ctx context.Context, err error) error {
	var broken *journalError
	var stopped *cancelled
	switch {
	case err == nil:
		return x.moveRun(ctx, RunCompleted, nil)
	case errors.As(err, &broken), x.lost():
		return err
	case errors.As(err, &stopped):
		return errors.Join(fault.New("run plan", fault.Invalid, x.id, err),
			x.moveRun(ctx, RunCancelled, Failure{Kind: fault.Invalid.String(), Error: err.Error()}))
	case ctx.Err() != nil:
		interrupted := fault.Newf("run plan", fault.Transient, x.id, "interrupted; go on with: muster runs resume %s", x.id)
		return errors.Join(&Interrupted{interrupted}, x.moveRun(ctx, RunInterrupted, failure(interrupted)))
	case x.wantsUndo():
		return errors.Join(err, x.undo(context.WithoutCancel(ctx), err))
	case x.wantsPause():
		return errors.Join(&Interrupted{err}, x.moveRun(ctx, RunInterrupted, failure(err)))
	default:
		return errors.Join(err, x.block(ctx), x.moveRun(ctx, RunFailed, failure(err)))
	}
}

// Interrupted marks the error of a run that stopped cleanly and waits for `muster runs resume`.
type Interrupted struct{ Err error }

func (i *Interrupted) Error() string { return i.Err.Error() }
func (i *Interrupted) Unwrap() error { return i.Err }

func (x *execution) lost() bool {
	select {
	case <-x.journal.Lost():
		return true
	default:
		return false
	}
}

// block marks the steps that could not start since something they need failed.
func (x *execution) block(ctx context.Context) error {
	for _, step := range x.ledger.steps {
		if step.whole.state() != TaskPending || x.needsMet(step) {
			continue
		}
		if err := x.move(ctx, StepBlocked, step.whole, nil); err != nil {
			return err
		}
	}
	return nil
}

func (x *execution) wantsUndo() bool  { return x.failedWith(plans.OnFailureUndo) }
func (x *execution) wantsPause() bool { return x.failedWith(plans.OnFailurePause) }

func (x *execution) failedWith(policy plans.OnFailure) bool {
	for _, step := range x.ledger.steps {
		if step.spec.OnFailure != policy {
			continue
		}
		for _, t := range append(step.tasks(), step.whole) {
			if t.state() == TaskFailed {
				return true
			}
		}
	}
	return false
}

// undo takes back what the receipts name, newest first. What cannot be undone is reported and the
// rest goes on.
func (x *execution) undo(ctx context.Context, cause error) error {
	if err := x.moveRun(ctx, RunUndoing, failure(cause)); err != nil {
		return err
	}
	var left []error
	for _, t := range slices.Backward(x.ledger.received()) {
		if err := x.undoTask(ctx, t); err != nil {
			left = append(left, inTask(t, err))
		}
	}
	if len(left) > 0 {
		err := fmt.Errorf("undo left things behind: %w", errors.Join(left...))
		return errors.Join(err, x.moveRun(ctx, RunFailed, failure(err)))
	}
	return x.moveRun(ctx, RunUndone, nil)
}

func (x *execution) undoTask(ctx context.Context, t *task) error {
	spec := x.ledger.byID[t.step].spec
	step, err := x.newStep(spec, t.item)
	if err != nil {
		return err
	}
	if err := step.Undo(ctx, x.view(spec, t.item, x.progressOf(t)), t.receipt); err != nil {
		return err
	}
	return x.move(ctx, StepUndone, t, nil)
}
