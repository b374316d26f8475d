package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

// undo takes back what the receipts name, newest first, each in the journal before the next. What
// cannot be undone is reported and the rest goes on; a resume tries it again.
func (x *execution) undo(ctx context.Context, cause error) error {
	if x.ledger.run.state() != RunStateUndoing {
		if err := x.moveRun(ctx, RunUndoing, failure(cause)); err != nil {
			return err
		}
	}
	var left []error
	for _, t := range slices.Backward(x.ledger.received()) {
		if ctx.Err() != nil {
			return &Interrupted{fault.Newf("undo run", fault.Transient, x.id, "interrupted while it was being undone; go on with: muster runs resume %s", x.id)}
		}
		err := x.undoTask(ctx, t)
		var broken *journalError
		if errors.As(err, &broken) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			left = append(left, inTask(t, err))
		}
	}
	if len(left) == 0 {
		return x.moveRun(ctx, RunUndone, nil)
	}
	err := fault.Newf("undo run", fault.KindOf(left[0]), x.id, "undo left things behind; remove them by hand, or try again with muster runs resume %s: %w", x.id, errors.Join(left...))
	return errors.Join(err, x.moveRun(ctx, RunUndoFailed, failure(err)))
}

func (x *execution) undoTask(ctx context.Context, t *task) error {
	spec := x.ledger.byID[t.step].spec
	step, err := x.newStep(spec, t.item)
	if err == nil {
		crashpoint.Here("undo.before-undo")
		err = x.retrying(ctx, spec, func() error { return step.Undo(ctx, x.view(spec, t.item, x.progressOf(t)), t.receipt) })
		crashpoint.Here("undo.after-undo")
	}
	if err == nil {
		return x.move(ctx, StepUndone, t, nil)
	}
	if ctx.Err() != nil {
		return err
	}
	if leaver, ok := step.(Leaver); ok {
		err = fmt.Errorf("%w; left: %s", err, leaver.Left(t.receipt))
	}
	return errors.Join(err, x.move(ctx, StepUndoFailed, t, failure(err)))
}

// goOnUndoing takes up an undo that was cut off, or that left things behind.
func (x *execution) goOnUndoing(ctx context.Context) (*Report, error) {
	defer x.release(ctx) //nolint:errcheck // the lease ends by itself
	if err := x.prepareUndo(ctx); err != nil {
		return nil, err
	}
	cause := errors.New("undo goes on")
	err := x.undo(ctx, cause)
	return x.report(), err
}

func (x *execution) prepareUndo(ctx context.Context) error {
	if x.plan.Repository != nil && x.repository == nil {
		if err := x.open(ctx); err != nil {
			return err
		}
	}
	if err := x.loadReceipts(ctx); err != nil {
		return err
	}
	return x.lock(ctx)
}

// endAsAsked ends a run that nobody works on, as an operator asked for before.
func (x *execution) endAsAsked(ctx context.Context) (*Report, error) {
	command := x.ledger.stop()
	if command.Verb == VerbUndo {
		if err := x.moveRun(ctx, RunUndoing, failure(&stopped{command})); err != nil {
			return nil, errors.Join(err, x.release(ctx))
		}
		return x.goOnUndoing(ctx)
	}
	err := x.cancel(ctx, &stopped{command})
	return x.report(), errors.Join(err, x.release(ctx))
}
