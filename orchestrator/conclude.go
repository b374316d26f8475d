package orchestrator

import (
	"context"
	"errors"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// conclude records how the run ended and returns the error that its caller is told.
func (x *execution) conclude(ctx context.Context, err error) error {
	return foremost(x.recordEnd(ctx, err))
}

// foremost is the error that a caller is told. When the journal can't be written that is what counts,
// whatever else went wrong: nothing is recorded any more.
func foremost(err error) error {
	var broken *journalError
	if errors.As(err, &broken) {
		return broken
	}
	return err
}

// fenced is the error of a process whose run is another's now.
func (x *execution) fenced() error {
	return fault.Newf("run plan", fault.Busy, x.id, "another process took this run over; nothing more was done here")
}

func (x *execution) recordEnd(ctx context.Context, err error) error {
	var broken *journalError
	var asked *stopped
	var pause *paused
	switch {
	case err == nil:
		return x.moveRun(ctx, RunCompleted, nil)
	case errors.As(err, &broken):
		return err
	case x.lost(): // whatever else was asked of this process, it can't do it any more
		return x.fenced()
	case errors.As(err, &asked):
		return x.cancel(ctx, asked)
	case errors.As(err, &pause):
		return errors.Join(&Interrupted{fault.Newf("run plan", fault.Transient, x.id, "%s; go on with: muster runs resume %s", pause, x.id)},
			x.moveRun(ctx, RunPaused, failure(pause)))
	case ctx.Err() != nil:
		interrupted := fault.Newf("run plan", fault.Transient, x.id, "interrupted; go on with: muster runs resume %s", x.id)
		return errors.Join(&Interrupted{interrupted}, x.moveRun(ctx, RunInterrupted, failure(interrupted)))
	case x.wantsUndo():
		return errors.Join(err, x.undo(ctx, err))
	case x.wantsPause():
		return errors.Join(&Interrupted{err}, x.moveRun(ctx, RunInterrupted, failure(err)))
	default:
		return errors.Join(err, x.block(ctx), x.moveRun(ctx, RunFailed, failure(err)))
	}
}

// cancel ends the run as it was asked: with what it did taken back, or as it stands.
func (x *execution) cancel(ctx context.Context, asked *stopped) error {
	ended := fault.New("run plan", fault.Invalid, x.id, asked)
	if asked.Verb == VerbUndo {
		return errors.Join(ended, x.undo(ctx, asked))
	}
	return errors.Join(ended, x.moveRun(ctx, RunCancelled, failure(ended)))
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
		for _, t := range step.all() {
			if t.state() == TaskFailed {
				return true
			}
		}
	}
	return false
}
