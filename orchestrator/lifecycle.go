package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

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
	RunPaused      = "run.paused"
	RunUndoing     = "run.undoing"
	RunUndone      = "run.undone"
	RunUndoFailed  = "run.undo-failed" // something is left in the world; resume tries again

	StepIntent      = "step.intent"
	StepReceipt     = "step.receipt"
	StepVerified    = "step.verified"
	StepRetry       = "step.retry"
	StepInterrupted = "step.interrupted"
	StepFailed      = "step.failed"
	StepSkipped     = "step.skipped"
	StepBlocked     = "step.blocked"
	StepReset       = "step.reset" // an operator wants it tried again
	StepUndone      = "step.undone"
)

// These types of events move no state: they add facts to a run.
const (
	StepItems   = "step.items"   // the frozen list of a fan-out
	StepFinding = "step.finding" // a line of the run's report
	StepDecided = "step.decided" // somebody approved or rejected

	StepUndoFailed = "step.undo-failed" // what is left, and why

	RunPausing     = "run.pausing"    // asked for: what runs is finished, nothing new starts
	RunCancelling  = "run.cancelling" // asked for: what runs is interrupted
	CommandRefused = "command.refused"
)

// The states of a run.
const (
	RunStatePending     = "pending"
	RunStateRunning     = "running"
	RunStateInterrupted = "interrupted"
	RunStateFailed      = "failed"
	RunStateCompleted   = "completed"
	RunStateCancelled   = "cancelled"
	RunStatePaused      = "paused"
	RunStateUndoing     = "undoing"
	RunStateUndone      = "undone"
	RunStateUndoFailed  = "undo-failed"
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
	idle := []string{RunStateInterrupted, RunStateFailed, RunStatePaused}
	return fsm.Events{
		{Name: RunStarted, Src: []string{RunStatePending}, Dst: RunStateRunning},
		{Name: RunResumed, Src: idle, Dst: RunStateRunning},
		{Name: RunInterrupted, Src: []string{RunStateRunning, RunStatePending}, Dst: RunStateInterrupted},
		{Name: RunPaused, Src: []string{RunStateRunning}, Dst: RunStatePaused},
		{Name: RunFailed, Src: []string{RunStateRunning, RunStateUndoing}, Dst: RunStateFailed}, // from undoing: format 1
		{Name: RunCompleted, Src: []string{RunStateRunning}, Dst: RunStateCompleted},
		{Name: RunCancelled, Src: append([]string{RunStatePending, RunStateRunning}, idle...), Dst: RunStateCancelled},
		{Name: RunUndoing, Src: append([]string{RunStateRunning, RunStateUndoFailed}, idle...), Dst: RunStateUndoing},
		{Name: RunUndone, Src: []string{RunStateUndoing}, Dst: RunStateUndone},
		{Name: RunUndoFailed, Src: []string{RunStateUndoing}, Dst: RunStateUndoFailed},
	}
}

func taskTable() fsm.Events {
	stopped := []string{TaskPending, TaskWaiting, TaskInterrupted, TaskFailed, TaskBlocked}
	return fsm.Events{
		{Name: StepIntent, Src: stopped, Dst: TaskRunning},
		{Name: StepReceipt, Src: []string{TaskRunning}, Dst: TaskReceived},
		{Name: StepVerified, Src: []string{TaskReceived}, Dst: TaskVerified},
		{Name: StepRetry, Src: []string{TaskRunning, TaskReceived}, Dst: TaskWaiting},
		{Name: StepInterrupted, Src: []string{TaskRunning, TaskReceived, TaskWaiting}, Dst: TaskInterrupted},
		{Name: StepFailed, Src: []string{TaskRunning, TaskReceived}, Dst: TaskFailed},
		{Name: StepSkipped, Src: stopped, Dst: TaskSkipped},
		{Name: StepBlocked, Src: []string{TaskPending}, Dst: TaskBlocked},
		{Name: StepReset, Src: []string{TaskFailed, TaskInterrupted, TaskBlocked}, Dst: TaskPending},
		{Name: StepUndone, Src: []string{TaskReceived, TaskVerified, TaskFailed, TaskInterrupted, TaskPending, TaskSkipped}, Dst: TaskUndone},
	}
}

// persist writes the event of a transition, which gets its number, and removes the command that asked for
// it; its error keeps the machine where it is.
type persist func(ctx context.Context, event *journal.Event, command *journal.Command) error

// table is the one state machine that all lifecycles of a kind share: one each would cost 50,000 tasks
// several kilobytes apiece.
type table struct {
	events   fsm.Events
	machines sync.Pool // of *fsm.FSM
}

func newTable(events fsm.Events, write persist) *table {
	t := &table{events: events}
	t.machines.New = func() any {
		return fsm.NewFSM("", events, fsm.Callbacks{
			// The state moves after this callback only: what the journal refused has not happened.
			"before_event": func(ctx context.Context, e *fsm.Event) {
				if len(e.Args) == 0 { // replayed from the journal
					return
				}
				if err := write(ctx, e.Args[0].(*journal.Event), e.Args[1].(*journal.Command)); err != nil {
					e.Cancel(err)
				}
			},
		})
	}
	return t
}

// lifecycle is one run's or task's place in a table. Every transition is durable before it happens.
type lifecycle struct {
	table  *table
	moving sync.Mutex // held while a transition is under way
	mu     sync.Mutex
	at     string
}

func (l *lifecycle) state() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at
}

// can reports whether the event is possible now.
func (l *lifecycle) can(event string) bool {
	machine := l.table.machines.Get().(*fsm.FSM)
	defer l.table.machines.Put(machine)
	machine.SetState(l.state())
	return machine.Can(event)
}

// fire moves the machine by a new event, which is persisted first.
func (l *lifecycle) fire(ctx context.Context, event *journal.Event, command *journal.Command) error {
	return l.move(ctx, event.Type, event, command)
}

// replay moves the machine by an event that the journal holds already.
func (l *lifecycle) replay(event journal.Event) error {
	if err := l.move(context.Background(), event.Type); err != nil {
		return fault.New("replay journal", fault.Corrupt, event.Type, err)
	}
	return nil
}

func (l *lifecycle) move(ctx context.Context, event string, args ...any) error {
	l.moving.Lock()
	defer l.moving.Unlock()
	machine := l.table.machines.Get().(*fsm.FSM)
	defer l.table.machines.Put(machine)
	machine.SetState(l.state())
	// looplab/fsm wedges a machine whose context ends in a transition.
	if err := machine.Event(context.WithoutCancel(ctx), event, args...); err != nil {
		return unwrapCancel(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = machine.Current()
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
