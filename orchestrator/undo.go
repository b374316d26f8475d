package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

// undo takes back what the run did, newest first, each in the journal before the next. What cannot be
// undone is reported and the rest goes on; a resume tries it again.
func (x *execution) undo(ctx context.Context, cause error) error {
	if x.ledger.run.state() != RunStateUndoing {
		if err := x.moveRun(ctx, RunUndoing, failure(cause)); err != nil {
			return err
		}
	}
	var left []error
	err := x.attended(ctx, func(ctx context.Context) (err error) {
		left, err = x.takeBack(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if len(left) == 0 {
		return x.moveRun(ctx, RunUndone, nil)
	}
	err = fault.Newf("undo run", fault.KindOf(left[0]), x.id, "undo left things behind; remove them by hand, or try again with muster runs resume %s: %w", x.id, errors.Join(left...))
	return errors.Join(err, x.moveRun(ctx, RunUndoFailed, failure(err)))
}

// attended calls work, answers operators meanwhile, and ends work's context when the run is lost.
func (x *execution) attended(ctx context.Context, work func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	listening.Go(func() {
		defer cancel()
		x.answer(ctx)
	})
	defer listening.Wait()
	defer cancel()
	return work(ctx)
}

// answer obeys what operators ask until ctx ends or the run is lost. Each answer is in the journal; where
// that can't be written any more, the work's next event fails as well.
func (x *execution) answer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.journal.Lost():
			return
		case command := <-x.journal.Commands():
			_ = x.obey(ctx, command)
		}
	}
}

// takeBack undoes every task that may have something in the world, and returns what could not be undone.
func (x *execution) takeBack(ctx context.Context) (left []error, err error) {
	for _, t := range slices.Backward(x.ledger.begun()) {
		if ctx.Err() != nil {
			return nil, x.undoCutOff()
		}
		err := x.undoTask(ctx, t)
		var broken *journalError
		switch {
		case errors.As(err, &broken):
			return nil, err
		case err != nil && ctx.Err() != nil:
			return nil, x.undoCutOff()
		case err != nil:
			left = append(left, inTask(t, err))
		}
	}
	return left, nil
}

func (x *execution) undoCutOff() error {
	if x.lost() {
		return x.fenced()
	}
	return &Interrupted{fault.Newf("undo run", fault.Transient, x.id, "interrupted while it was being undone; go on with: muster runs resume %s", x.id)}
}

func (x *execution) undoTask(ctx context.Context, t *task) error {
	spec := x.ledger.byID[t.step].spec
	step, err := x.newStep(spec, t.item)
	if t.receipt == nil && !abandons(step, err) {
		return nil
	}
	if err == nil {
		crashpoint.Here("undo.before-undo")
		err = x.retrying(ctx, spec, func() error { return x.remove(ctx, step, t) })
		crashpoint.Here("undo.after-undo")
	}
	if err == nil {
		return x.move(ctx, StepUndone, t, nil)
	}
	if ctx.Err() != nil {
		return err
	}
	if leaver, ok := step.(Leaver); ok && t.receipt != nil {
		err = fmt.Errorf("%w; left: %s", err, leaver.Left(t.receipt))
	}
	return errors.Join(err, x.move(ctx, StepUndoFailed, t, failure(err)))
}

// abandons reports whether undo has to look for what a task without a receipt made. Settings that can't
// be evaluated now could not be then: its Do was never called.
func abandons(step Step, err error) bool {
	if err != nil {
		return !fault.Is(err, fault.Invalid)
	}
	_, ok := step.(Abandoner)
	return ok
}

// remove takes out of the world what a task made: what its newest attempt made that left no receipt, then
// what its receipt names.
func (x *execution) remove(ctx context.Context, step Step, t *task) error {
	run := x.view(x.ledger.byID[t.step].spec, t.item, x.progressOf(t))
	if abandoner, ok := step.(Abandoner); ok && t.open {
		if err := abandoner.Abandon(ctx, run); err != nil {
			return err
		}
	}
	if t.receipt == nil {
		return nil
	}
	return step.Undo(ctx, run, t.receipt)
}

// goOnUndoing takes up an undo that was cut off, or that left things behind.
func (x *execution) goOnUndoing(ctx context.Context) (*Report, error) {
	defer x.release(ctx) //nolint:errcheck // the lease ends by itself
	if err := x.prepareUndo(ctx); err != nil {
		return nil, err
	}
	err := foremost(x.undo(ctx, errors.New("undo goes on")))
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
	if command.Verb != VerbUndo {
		err := foremost(x.cancel(ctx, &stopped{command}))
		return x.report(), errors.Join(err, x.release(ctx))
	}
	if x.ledger.run.state() != RunStateUndoing {
		if err := x.moveRun(ctx, RunUndoing, failure(&stopped{command})); err != nil {
			return nil, errors.Join(err, x.release(ctx))
		}
	}
	return x.goOnUndoing(ctx)
}
