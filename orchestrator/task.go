package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

// The defaults of plans.Retry.
const (
	defaultAttempts = 3
	defaultBackoff  = time.Second
	mostBackoff     = 5 * time.Minute
)

// runTask brings one task to its end: verified, failed for good, or interrupted with ctx.
func (x *execution) runTask(ctx context.Context, spec plans.Step, t *task) error {
	defer x.board.drop(t)
	attempts := attemptsOf(spec)
	for try := 1; ; try++ {
		err := x.attempt(ctx, spec, t)
		if err == nil {
			return nil
		}
		var broken *journalError
		if errors.As(err, &broken) {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(x.move(ctx, StepInterrupted, t, nil), context.Cause(ctx))
		}
		if !fault.KindOf(err).Retryable() || try >= attempts {
			return errors.Join(x.move(ctx, StepFailed, t, failure(err)), err)
		}
		if err := x.waitForRetry(ctx, t, err, backoffOf(spec, try)); err != nil {
			return err
		}
	}
}

func attemptsOf(spec plans.Step) int {
	if spec.Retry.Attempts == 0 {
		return defaultAttempts
	}
	return spec.Retry.Attempts
}

// backoffOf is the wait after the try-th failure: it doubles each time, and up to a half of it is left
// to chance, so that tasks that failed together don't come back together.
func backoffOf(spec plans.Step, try int) time.Duration {
	backoff := time.Duration(spec.Retry.Backoff)
	if backoff == 0 {
		backoff = defaultBackoff
	}
	backoff = min(backoff<<min(try-1, 20), mostBackoff)
	return backoff/2 + rand.N(backoff/2+1)
}

// retrying calls do until it succeeds, fails for good, or was tried as often as the step may be.
func (x *execution) retrying(ctx context.Context, spec plans.Step, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if err == nil || !fault.KindOf(err).Retryable() || try >= attemptsOf(spec) {
			return err
		}
		timer := time.NewTimer(backoffOf(spec, try))
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
		return errors.Join(x.move(ctx, StepInterrupted, t, nil), context.Cause(ctx))
	}
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

// newStep makes the step's value and fills it from the plan's `with`.
func (r *Runner) newStep(spec plans.Step, item string) (Step, error) {
	definition, ok := r.definitions[spec.Uses]
	if !ok {
		return nil, fault.Newf("run step", fault.Unsupported, spec.ID,
			"this muster knows no step %q; use the version that started the run", spec.Uses)
	}
	step := definition.New()
	if len(spec.With) == 0 {
		return step, nil
	}
	raw, err := yaml.Marshal(plans.Expand(spec.With, item))
	if err != nil {
		return nil, fault.New("run step", fault.Internal, spec.ID, err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(step); err != nil {
		return nil, fault.New("run step", fault.Invalid, spec.ID, fmt.Errorf("with: %w", err))
	}
	return step, nil
}

func (x *execution) progressOf(t *task) *taskProgress {
	return &taskProgress{
		observe: func(u Update) { x.board.put(u); x.told().Progressed(u) },
		finding: func(f Finding) { x.find(t, f) },
		now:     x.Now,
		update:  Update{Step: t.step, Item: t.item},
	}
}
