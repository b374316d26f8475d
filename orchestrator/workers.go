package orchestrator

import (
	"context"
	"errors"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/journal"
)

// workers are the steps that one process has at work, and what keeps more from starting.
type workers struct {
	*execution
	ctx     context.Context         // of all steps
	cancel  context.CancelCauseFunc // ends all
	waiting context.Context         // of steps that only wait: a pause ends these
	wake    context.CancelCauseFunc

	results  chan stepResult
	begun    map[string]bool
	active   int
	failures map[string]error // by step
	deadline <-chan time.Time // nil without one, and once it is over
	timer    *time.Timer
}

func newWorkers(ctx context.Context, x *execution) *workers {
	w := &workers{execution: x, results: make(chan stepResult), begun: map[string]bool{}, failures: map[string]error{}}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.waiting, w.wake = context.WithCancelCause(w.ctx)
	if limit := time.Duration(x.plan.Plan.Spec.Deadline); limit > 0 {
		w.timer = time.NewTimer(x.ledger.began().Add(limit).Sub(x.Now()))
		w.deadline = w.timer.C
	}
	return w
}

func (w *workers) end() {
	w.cancel(nil)
	if w.timer != nil {
		w.timer.Stop()
	}
}

// mayStart reports whether anything new may start: nothing failed that stops the run, and nobody asked
// for a pause or an end.
func (w *workers) mayStart() bool {
	if w.ctx.Err() != nil || w.ledger.stop() != nil {
		return false
	}
	for id, err := range w.failures {
		if stopsRun(w.ledger.byID[id], err) {
			return false
		}
	}
	return true
}

// contextOf is the context of a step.
func (w *workers) contextOf(step *stepState) context.Context {
	if w.definitions[step.spec.Uses].Waits {
		return w.waiting
	}
	return w.ctx
}

func (w *workers) ended(result stepResult) {
	w.active--
	if result.err != nil {
		w.failures[result.step.spec.ID] = result.err
	}
}

// stop ends what runs, for a reason that becomes the run's.
func (w *workers) stop(reason error) { w.cancel(reason) }

// command obeys an operator.
func (w *workers) command(command journal.Command) {
	err := w.obey(w.ctx, command)
	var broken *journalError
	if errors.As(err, &broken) {
		w.stop(broken)
	}
	if err != nil {
		return // the refusal is journaled
	}
	switch command.Verb {
	case VerbPause:
		w.wake(&paused{&command})
	case VerbCancel, VerbUndo:
		w.stop(&stopped{&command})
	case VerbRetry, VerbSkip:
		delete(w.failures, command.Step)
		delete(w.begun, command.Step)
	}
}

// drain waits for everything that runs.
func (w *workers) drain() {
	for ; w.active > 0; w.active-- {
		<-w.results
	}
}

// outcome is why the loop ended: nil when everything is done.
func (w *workers) outcome() error {
	cause, command := context.Cause(w.ctx), w.ledger.stop()
	var broken *journalError
	switch {
	case errors.As(cause, &broken):
		return cause
	case ends(command): // whatever else ended it: a cancel that is journaled is obeyed
		return &stopped{command}
	case cause != nil:
		return cause
	case command != nil:
		return &paused{command}
	}
	var failures []error
	for _, step := range w.ledger.steps {
		if !step.spec.Optional {
			failures = append(failures, w.failures[step.spec.ID])
		}
	}
	return errors.Join(failures...)
}

func stopsRun(step *stepState, err error) bool {
	var broken *journalError
	return errors.As(err, &broken) || !step.spec.Optional && step.spec.OnFailure != plans.OnFailureContinue
}

// stopped is the cause of an end that an operator asked for.
type stopped struct{ *journal.Command }

func (s *stopped) Error() string { return asked("cancelled", s.Command) }

// paused is the cause of a pause.
type paused struct{ *journal.Command }

func (p *paused) Error() string { return asked("paused", p.Command) }

func asked(what string, command *journal.Command) string {
	text := what
	if command.By != "" {
		text += " by " + command.By
	}
	if command.Reason != "" {
		text += ": " + command.Reason
	}
	return text
}
