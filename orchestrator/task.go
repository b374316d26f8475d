package orchestrator

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

// runTask brings one task to its end: verified, failed for good, or interrupted with ctx.
func (x *execution) runTask(ctx context.Context, spec plans.Step, t *task) error {
	defer x.board.drop(t)
	attempts := spec.Retry.WithDefaults().Attempts
	for try := 1; ; try++ {
		err := x.attempt(ctx, spec, t)
		if err == nil {
			return nil
		}
		var broken *journalError
		if errors.As(err, &broken) {
			return err
		}
		var asked *stopped
		if errors.As(err, &asked) { // refused before it began
			return errors.Join(x.interrupt(ctx, t), err)
		}
		if ctx.Err() != nil {
			return errors.Join(x.interrupt(ctx, t), context.Cause(ctx))
		}
		if !fault.KindOf(err).Retryable() || try >= attempts {
			return errors.Join(x.move(ctx, StepFailed, t, failure(err)), err)
		}
		if err := x.waitForRetry(ctx, t, err, jittered(spec.Retry.Wait(try))); err != nil {
			return err
		}
	}
}

// jittered leaves up to a half of a wait to chance, so that tasks that failed together don't come back
// together.
func jittered(wait time.Duration) time.Duration { return wait/2 + rand.N(wait/2+1) }

// retrying calls do until it succeeds, fails for good, or was tried as often as the step may be.
func (x *execution) retrying(ctx context.Context, spec plans.Step, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if err == nil || !fault.KindOf(err).Retryable() || try >= spec.Retry.WithDefaults().Attempts {
			return err
		}
		timer := time.NewTimer(jittered(spec.Retry.Wait(try)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func (x *execution) waitForRetry(ctx context.Context, t *task, cause error, wait time.Duration) error {
	data := failure(cause)
	data.RetryAfter = wait.Seconds()
	if err := x.move(ctx, StepRetry, t, data); err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.Join(x.interrupt(ctx, t), context.Cause(ctx))
	}
}

// interrupt journals that a task was cut off, if it had begun.
func (x *execution) interrupt(ctx context.Context, t *task) error {
	if !t.can(StepInterrupted) {
		return nil
	}
	return x.move(ctx, StepInterrupted, t, nil)
}

// attempt is intent, Do, receipt, Verify, verified: each durable before the next begins.
func (x *execution) attempt(ctx context.Context, spec plans.Step, t *task) error {
	prior := t.receipt
	t.attempt++
	if err := x.move(ctx, StepIntent, t, nil); err != nil {
		return err
	}
	if spec.Timeout > 0 {
		limit := time.Duration(spec.Timeout)
		timed, cancel := context.WithTimeoutCause(ctx, limit, fault.Newf("run step", fault.Transient, spec.ID,
			"not done after its timeout of %s", limit))
		defer cancel()
		ctx = timed
	}
	step, err := x.newStep(spec, t.item)
	if err != nil {
		return err
	}
	progress := x.progressOf(t)
	run := x.view(spec, t.item, progress)
	if x.plan.ReadsReceipts(spec) { // the check before the run could not be made
		if err := step.Check(ctx, run); err != nil {
			return causeOf(ctx, err)
		}
	}
	crashpoint.Here("step.before-do")
	receipt, err := step.Do(ctx, run, prior)
	if err != nil {
		return causeOf(ctx, err)
	}
	crashpoint.Here("step.after-do")
	if len(receipt) == 0 {
		receipt = Receipt("{}")
	}
	data, err := x.journaled(ctx, t, step, receipt)
	if err != nil {
		return err
	}
	if err := x.move(ctx, StepReceipt, t, data); err != nil {
		return err
	}
	x.ledger.hold(t, receipt)
	if err := step.Verify(ctx, run, receipt); err != nil {
		return causeOf(ctx, err)
	}
	return x.move(ctx, StepVerified, t, progress.done())
}

// causeOf lets a step's own timeout speak instead of the error that its cancelled context caused.
func causeOf(ctx context.Context, err error) error {
	var timeout *fault.Error
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &timeout) {
		return context.Cause(ctx)
	}
	return err
}

// newStep makes the step's value and fills it from the plan's `with`, its expressions evaluated.
func (x *execution) newStep(spec plans.Step, item string) (Step, error) {
	definition, ok := x.definitions[spec.Uses]
	if !ok {
		return nil, fault.Newf("run step", fault.Unsupported, spec.ID,
			"this muster knows no step %q; use the version that started the run", spec.Uses)
	}
	step := definition.New()
	if len(spec.With) == 0 {
		return step, nil
	}
	settings, err := x.plan.Expand(spec, item, x.factsOf(spec.ID, item))
	if err == nil {
		err = plans.Decode(settings, step)
	}
	if err != nil {
		return nil, fault.New("run step", fault.Invalid, spec.ID, err)
	}
	return step, nil
}

// factsOf are the facts for one task. Its clock stands at its first intent, which the journal holds,
// so that another attempt, another process and an undo find what the first one made.
func (x *execution) factsOf(step, item string) plans.Facts {
	facts := x.facts()
	if t := x.ledger.find(step, item); t != nil {
		x.ledger.mu.Lock()
		defer x.ledger.mu.Unlock()
		if !t.intended.IsZero() {
			facts.Now = t.intended
		}
	}
	return facts
}

func (x *execution) progressOf(t *task) *taskProgress {
	return &taskProgress{
		observe: func(u Update) { x.board.put(u); x.told().Progressed(u) },
		finding: func(f Finding) { x.find(t, f) },
		now:     x.Now,
		update:  Update{Step: t.step, Item: t.item},
	}
}
