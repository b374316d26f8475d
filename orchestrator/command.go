package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// The verbs of commands. They are part of the journal's format: append only.
const (
	VerbPause   = "pause"  // what runs is finished, nothing new starts
	VerbCancel  = "cancel" // what runs is interrupted; the run ends for good
	VerbUndo    = "undo"   // cancel, and take back what was done
	VerbRetry   = "retry"  // try a failed step again
	VerbSkip    = "skip"   // count a step as done without doing it
	VerbApprove = "approve"
	VerbReject  = "reject"
)

// refusal is the data of command.refused.
type refusal struct {
	journal.Command
	Failure
}

// answerWithin bounds the wait for a living owner's answer to a command.
const answerWithin = 30 * time.Second

// Command hands a command to the process that works on the run, and returns when it was taken; without
// such a process this one obeys it. The error is what the run's owner says against it.
func (r *Runner) Command(ctx context.Context, id string, command journal.Command) error {
	header, err := r.Store.Header(ctx, id)
	if err != nil {
		return err
	}
	_, alive, err := r.Store.Owner(ctx, header.ID)
	if err != nil {
		return err
	}
	if alive {
		return r.ask(ctx, header.ID, command)
	}
	x, err := r.thaw(header)
	if err != nil {
		return err
	}
	err = x.obeyIdle(ctx, command)
	x.archive(ctx)
	return errors.Join(err, x.close(ctx))
}

// ask leaves the command and waits for the event that answers it.
func (r *Runner) ask(ctx context.Context, id string, command journal.Command) error {
	if err := r.Store.Request(ctx, id, command); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, fault.Newf("ask run", fault.Busy, id,
		"the process that works on it has not answered within %s; the command stays with the run", answerWithin))
	defer cancel()
	answered := errors.New("answered")
	var refused error
	err := r.Store.Watch(ctx, id, 0, func(event journal.Event) error {
		if end, ended := endOf(event.Type); ended { // it came too late
			refused = tooLate(id, command.Verb, end)
			return answered
		}
		var answer refusal
		if json.Unmarshal(event.Data, &answer) != nil || answer.ID != command.ID {
			return nil
		}
		if event.Type == CommandRefused {
			refused = fault.Newf("ask run", fault.ParseKind(answer.Kind), id, "%s", answer.Error)
		}
		return answered
	})
	if errors.Is(err, answered) {
		return refused
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// endOf is the state of a run that this event ends for good.
func endOf(event string) (state string, ended bool) {
	state, ended = map[string]string{
		RunCompleted: RunStateCompleted, RunCancelled: RunStateCancelled, RunUndone: RunStateUndone,
	}[event]
	return state, ended
}

// tooLate is nil when a run ended before it read a command, and ended as the command asks.
func tooLate(id, verb, end string) error {
	if verb == VerbCancel && end == RunStateCancelled || verb == VerbUndo && end == RunStateUndone {
		return nil
	}
	return fault.Newf("ask run", fault.Exists, id, "it has ended already: %s", end)
}

// obeyIdle obeys a command for a run that nobody works on. What a cancel leads to is done here.
func (x *execution) obeyIdle(ctx context.Context, command journal.Command) error {
	if err := x.own(ctx); err != nil {
		return err
	}
	err := x.takeOver(ctx)
	if err == nil {
		err = x.obey(ctx, command)
	}
	if err != nil || command.Verb != VerbCancel && command.Verb != VerbUndo {
		return errors.Join(err, x.release(ctx))
	}
	_, err = x.endAsAsked(ctx)
	if x.ledger.run.state() == RunStateCancelled || x.ledger.run.state() == RunStateUndone {
		return nil // the run's own error is the one that was asked for
	}
	return err
}

// obey checks a command against the run as it stands, and journals what it leads to, or why it is
// refused. Either removes the command.
func (x *execution) obey(ctx context.Context, command journal.Command) error {
	err := x.judge(command)
	if err != nil {
		return errors.Join(err, x.record(ctx, CommandRefused, command.Step, "", 0, refusal{command, failure(err)}, &command))
	}
	switch command.Verb {
	case VerbPause:
		return x.record(ctx, RunPausing, "", "", 0, command, &command)
	case VerbCancel, VerbUndo:
		return x.record(ctx, RunCancelling, "", "", 0, command, &command)
	case VerbApprove, VerbReject:
		return x.record(ctx, StepDecided, command.Step, "", 0, command, &command)
	case VerbSkip:
		return x.record(ctx, StepSkipped, command.Step, "", 0, command, &command)
	}
	for _, t := range x.ledger.byID[command.Step].all() {
		if !t.can(StepReset) {
			continue
		}
		if err := x.record(ctx, StepReset, t.step, t.item, 0, command, &command); err != nil {
			return err
		}
	}
	return nil
}

// judge says why a command can't be obeyed.
func (x *execution) judge(command journal.Command) error {
	refuse := func(kind fault.Kind, format string, args ...any) error {
		return fault.Newf(command.Verb+" run", kind, x.id, format, args...)
	}
	if err := x.judgeEnding(command, refuse); err != nil {
		return err
	}
	switch command.Verb {
	case VerbPause:
		if x.ledger.run.state() != RunStateRunning {
			return refuse(fault.Invalid, "nobody works on it: it is %s", x.ledger.run.state())
		}
		return nil
	case VerbCancel, VerbUndo:
		return nil
	case VerbRetry, VerbSkip, VerbApprove, VerbReject:
	default:
		return refuse(fault.Unsupported, "this muster knows no command %q", command.Verb)
	}
	step := x.ledger.byID[command.Step]
	if step == nil {
		return refuse(fault.NotFound, "its plan has no step %q: muster runs show %s lists them", command.Step, x.id)
	}
	if x.ended(step) && (command.Verb != VerbRetry || !step.failed()) {
		return refuse(fault.Exists, "step %s has ended already: %s", command.Step, stepStateName(step))
	}
	switch command.Verb {
	case VerbRetry:
		return x.judgeRetry(step, refuse)
	case VerbSkip:
		return x.judgeSkip(step, refuse)
	}
	return x.judgeDecision(step, command, refuse)
}

// judgeEnding says why a run that is on its way to its end can't turn back. To ask again for the same
// end is no mistake, and to ask for more than a cancel neither.
func (x *execution) judgeEnding(command journal.Command, refuse refuser) error {
	if command.Verb == VerbUndo {
		return nil
	}
	asked, state := x.ledger.stop(), x.ledger.run.state()
	switch {
	case state == RunStateUndoFailed:
		return refuse(fault.Invalid, "it was undone in part; try the rest again with: muster runs resume %s", x.id)
	case state == RunStateUndoing, ends(asked) && asked.Verb == VerbUndo:
		return refuse(fault.Invalid, "it is being undone")
	case ends(asked) && command.Verb != VerbCancel:
		return refuse(fault.Invalid, "it is being cancelled")
	}
	return nil
}

type refuser func(kind fault.Kind, format string, args ...any) error

func (x *execution) judgeRetry(step *stepState, refuse refuser) error {
	for _, t := range step.all() {
		if t.state() == TaskFailed {
			return nil
		}
	}
	return refuse(fault.Invalid, "step %s has not failed: it is %s", step.spec.ID, stepStateName(step))
}

func (x *execution) judgeSkip(step *stepState, refuse refuser) error {
	for _, t := range step.all() {
		if state := t.state(); state == TaskRunning || state == TaskReceived || state == TaskWaiting {
			return refuse(fault.Busy, "step %s is at work: pause the run first, or let it fail", step.spec.ID)
		}
	}
	if !step.whole.can(StepSkipped) {
		return refuse(fault.Invalid, "step %s is %s", step.spec.ID, stepStateName(step))
	}
	return nil
}

func (x *execution) judgeDecision(step *stepState, command journal.Command, refuse refuser) error {
	worker, err := x.newStep(step.spec, "")
	if err != nil {
		return err
	}
	accepter, ok := worker.(Accepter)
	if !ok {
		return refuse(fault.Invalid, "step %s is a %s: nobody decides on it", step.spec.ID, step.spec.Uses)
	}
	if decision, _ := x.ledger.decision(step.spec.ID); decision != nil {
		return refuse(fault.Exists, "it was decided already: %s by %s", decision.Verb, decision.By)
	}
	return accepter.Accept(command)
}
