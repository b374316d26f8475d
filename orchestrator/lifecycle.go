package orchestrator

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/looplab/fsm"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// The names of transitions are the types of the journal's events: replaying a journal is firing
// them again, through the same tables.
const (
	RunStarted     = "run.started"
	RunResumed     = "run.resumed"
	RunInterrupted = "run.interrupted" // stopped cleanly; resume goes on
	RunFailed      = "run.failed"
	RunCompleted   = "run.completed"
	RunCancelled   = "run.cancelled"
	RunUndoing     = "run.undoing"
	RunUndone      = "run.undone"

	StepIntent      = "step.intent"
	StepReceipt     = "step.receipt"
	StepVerified    = "step.verified"
	StepRetry       = "step.retry"
	StepInterrupted = "step.interrupted"
	StepFailed      = "step.failed"
	StepSkipped     = "step.skipped"
	StepBlocked     = "step.blocked"
	StepUndone      = "step.undone"
)

// These types of events move no state: they add facts to a run.
const (
	StepItems   = "step.items"   // the frozen list of a fan-out
	StepFinding = "step.finding" // a line of the run's report
)

// The states of a run.
const (
	RunStatePending     = "pending"
	RunStateRunning     = "running"
	RunStateInterrupted = "interrupted"
	RunStateFailed      = "failed"
	RunStateCompleted   = "completed"
	RunStateCancelled   = "cancelled"
	RunStateUndoing     = "undoing"
	RunStateUndone      = "undone"
)

// The states of a task.
const (
	TaskPending     = "pending"
	TaskRunning     = "running"
	TaskReceived    = "received" // Do has ended, Verify has not
	TaskVerified    = "verified"
	TaskWaiting     = "waiting" // for its next attempt
	TaskInterrupted = "interrupted"
	TaskFailed      = "failed"
	TaskSkipped     = "skipped"
	TaskBlocked     = "blocked" // something it needs did not come to its end
	TaskUndone      = "undone"
)

func runTable() fsm.Events {
	return fsm.Events{
		{Name: RunStarted, Src: []string{RunStatePending}, Dst: RunStateRunning},
		{Name: RunResumed, Src: []string{RunStateInterrupted, RunStateFailed}, Dst: RunStateRunning},
		{Name: RunInterrupted, Src: []string{RunStateRunning, RunStatePending}, Dst: RunStateInterrupted},
		{Name: RunFailed, Src: []string{RunStateRunning, RunStateUndoing}, Dst: RunStateFailed},
		{Name: RunCompleted, Src: []string{RunStateRunning}, Dst: RunStateCompleted},
		{Name: RunCancelled, Src: []string{RunStatePending, RunStateRunning, RunStateInterrupted, RunStateFailed}, Dst: RunStateCancelled},
		{Name: RunUndoing, Src: []string{RunStateRunning}, Dst: RunStateUndoing},
		{Name: RunUndone, Src: []string{RunStateUndoing}, Dst: RunStateUndone},
	}
}

func taskTable() fsm.Events {
	return fsm.Events{
		{Name: StepIntent, Src: []string{TaskPending, TaskWaiting, TaskInterrupted, TaskFailed, TaskBlocked}, Dst: TaskRunning},
		{Name: StepReceipt, Src: []string{TaskRunning}, Dst: TaskReceived},
		{Name: StepVerified, Src: []string{TaskReceived}, Dst: TaskVerified},
		{Name: StepRetry, Src: []string{TaskRunning, TaskReceived}, Dst: TaskWaiting},
		{Name: StepInterrupted, Src: []string{TaskRunning, TaskReceived, TaskWaiting}, Dst: TaskInterrupted},
		{Name: StepFailed, Src: []string{TaskRunning, TaskReceived}, Dst: TaskFailed},
		{Name: StepSkipped, Src: []string{TaskPending}, Dst: TaskSkipped},
		{Name: StepBlocked, Src: []string{TaskPending}, Dst: TaskBlocked},
		{Name: StepUndone, Src: []string{TaskReceived, TaskVerified, TaskFailed, TaskInterrupted}, Dst: TaskUndone},
	}
}

// lifecycle is one state machine whose every transition is durable before it happens.
type lifecycle struct{ machine *fsm.FSM }

// persist writes the event of a transition; its error keeps the machine where it is.
type persist func(ctx context.Context, event journal.Event) error

func newLifecycle(table fsm.Events, initial string, write persist) lifecycle {
	return lifecycle{fsm.NewFSM(initial, table, fsm.Callbacks{
		// The state moves after this callback only: what the journal refused has not happened.
		"before_event": func(ctx context.Context, e *fsm.Event) {
			event, fresh := e.Args[0].(journal.Event)
			if !fresh { // replayed from the journal
				return
			}
			if err := write(ctx, event); err != nil {
				e.Cancel(err)
			}
		},
	})}
}

func (l lifecycle) state() string { return l.machine.Current() }

// fire moves the machine by a new event, which is persisted first.
func (l lifecycle) fire(ctx context.Context, event journal.Event) error {
	// looplab/fsm wedges a machine whose context ends in a transition.
	return unwrapCancel(l.machine.Event(context.WithoutCancel(ctx), event.Type, event))
}

// replay moves the machine by an event that the journal holds already.
func (l lifecycle) replay(event journal.Event) error {
	if err := l.machine.Event(context.Background(), event.Type, nil); err != nil {
		return fault.New("replay journal", fault.Corrupt, event.Type, err)
	}
	return nil
}

func unwrapCancel(err error) error {
	var cancelled fsm.CanceledError
	if errors.As(err, &cancelled) && cancelled.Err != nil {
		return cancelled.Err
	}
	return err
}

func newEvent(kind, step, item string, attempt int, data any) (journal.Event, error) {
	event := journal.Event{Type: kind, Step: step, Item: item, Attempt: attempt}
	if data == nil {
		return event, nil
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return event, fault.New("encode event", fault.Internal, kind, err)
	}
	event.Data = raw
	return event, nil
}

// Failure is the data of the events that carry an error.
type Failure struct {
	Kind  string `json:"kind"`
	Error string `json:"error"`
	// RetryAfter is the wait before the next attempt, in seconds; in step.retry alone.
	RetryAfter float64 `json:"retryAfterSeconds,omitempty"`
}

func failure(err error) Failure { return Failure{Kind: fault.KindOf(err).String(), Error: err.Error()} }
