package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// ledger is a run's state as its journal tells it: built by replaying events, moved by recording
// new ones. It is safe for concurrent use.
type ledger struct {
	write persist
	tasks *table

	beginning sync.RWMutex // for reading while a task's intent is journaled, for writing while a cancel is

	run   lifecycle
	steps []*stepState
	byID  map[string]*stepState

	mu       sync.Mutex // guards what follows, and the fields of steps and tasks
	findings []taskFinding
	started  time.Time
	ended    time.Time
	failure  *Failure      // the first that ended the run
	working  time.Duration // the time processes worked on the run, pauses left out
	resumed  time.Time
	pauses   []Pause
	undo     bool             // a cancel asked for it
	stopping *journal.Command // the pause or cancel that was asked for, and has not been reached yet
	decided  map[string]journal.Command
	changed  chan struct{} // closed and made anew when a decision comes
}

// stepState is one step of the plan. Steps that do not fan out have the one item "".
type stepState struct {
	spec  plans.Step
	whole *task   // carries skipped and blocked, and the work of a step without items
	items []*task // nil until the fan-out is frozen
	index map[string]*task
	fans  bool

	retries int // of all tasks, over all resumes
}

// task is one unit with a lifecycle.
type task struct {
	step string
	item string
	lifecycle
	attempt  int
	receipt  Receipt
	place    int64    // the number of the newest intent or receipt: undo goes backwards by it
	open     bool     // the newest attempt has left no receipt: what it made is named by nothing
	summary  *Summary // of a receipt that is kept elsewhere
	failure  *Failure
	intended time.Time // of the first attempt
	ended    time.Time
	done     Amount
	left     *Failure // why undo could not take it back
	skipped  *journal.Command
}

// Amount counts what a task moved.
type Amount struct {
	Bytes int64 `json:"bytes,omitempty"`
	Items int64 `json:"items,omitempty"`
}

type taskFinding struct {
	Step, Item string
	Finding
}

func newLedger(plan *plans.Plan, fans func(uses string) bool, write persist) *ledger {
	l := &ledger{
		write: write, tasks: newTable(taskTable(), write), byID: map[string]*stepState{},
		decided: map[string]journal.Command{}, changed: make(chan struct{}),
	}
	l.run.table, l.run.at = newTable(runTable(), write), RunStatePending
	for _, spec := range plan.Spec.Steps {
		step := &stepState{spec: spec, fans: spec.ForEach != nil || fans(spec.Uses)}
		step.whole = l.newTask(spec.ID, "")
		l.steps = append(l.steps, step)
		l.byID[spec.ID] = step
	}
	return l
}

func (l *ledger) newTask(step, item string) *task {
	return &task{step: step, item: item, lifecycle: lifecycle{table: l.tasks, at: TaskPending}}
}

// work are the tasks that do the step's work, none as long as a fan-out is unknown.
func (s *stepState) work() []*task {
	if s.fans {
		return s.items
	}
	return []*task{s.whole}
}

// record makes an event durable, then moves the state by it. The command that asked for it, if any, is
// removed in the same transaction.
func (l *ledger) record(ctx context.Context, event journal.Event, command *journal.Command) error {
	leave, err := l.enter(event.Type)
	if err != nil {
		return err
	}
	defer leave()
	machine, err := l.machineOf(event)
	if err != nil {
		return err
	}
	if machine == nil {
		if err := l.write(ctx, &event, command); err != nil {
			return err
		}
		return l.apply(event)
	}
	if err := machine.fire(ctx, &event, command); err != nil {
		return err
	}
	return l.apply(event)
}

// enter keeps intents and cancels apart: once a cancel is in the journal, no task begins.
func (l *ledger) enter(event string) (leave func(), err error) {
	switch event {
	case RunCancelling:
		l.beginning.Lock()
		return l.beginning.Unlock, nil
	case StepIntent:
		l.beginning.RLock()
		if command := l.stop(); ends(command) {
			l.beginning.RUnlock()
			return nil, &stopped{command}
		}
		return l.beginning.RUnlock, nil
	}
	return func() {}, nil
}

// replay moves the state by events that the journal holds already.
func (l *ledger) replay(events []journal.Event) error {
	for _, event := range events {
		machine, err := l.machineOf(event)
		if err != nil {
			return err
		}
		if machine != nil {
			if err := machine.replay(event); err != nil {
				return err
			}
		}
		if err := l.apply(event); err != nil {
			return err
		}
	}
	return nil
}

// machineOf finds the lifecycle an event moves: nil for events that only add facts.
func (l *ledger) machineOf(event journal.Event) (*lifecycle, error) {
	switch event.Type {
	case StepItems, StepFinding, StepDecided, StepUndoFailed, RunPausing, RunCancelling, CommandRefused:
		return nil, nil
	}
	if strings.HasPrefix(event.Type, "run.") {
		return &l.run, nil
	}
	task := l.find(event.Step, event.Item)
	if task == nil {
		return nil, fault.Newf("replay journal", fault.Corrupt, event.Type,
			"the plan has no step %q with item %q", event.Step, event.Item)
	}
	return &task.lifecycle, nil
}

func (l *ledger) find(step, item string) *task {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.byID[step]
	if s == nil {
		return nil
	}
	if item == "" {
		return s.whole
	}
	return s.index[item]
}

// apply updates what the lifecycles themselves don't hold.
func (l *ledger) apply(event journal.Event) error {
	switch event.Type {
	case StepItems:
		return l.applyItems(event)
	case StepFinding:
		return l.applyFinding(event)
	case StepDecided:
		return l.applyDecision(event)
	case CommandRefused:
		return nil
	}
	if strings.HasPrefix(event.Type, "run.") {
		return l.applyRun(event)
	}
	moved := l.find(event.Step, event.Item)
	l.mu.Lock()
	defer l.mu.Unlock()
	if moved == nil {
		return fault.Newf("replay journal", fault.Corrupt, event.Type, "the plan has no step %q with item %q", event.Step, event.Item)
	}
	if event.Type == StepRetry {
		l.byID[event.Step].retries++
	}
	return moved.apply(event)
}

func (l *ledger) applyRun(event journal.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch event.Type {
	case RunPausing, RunCancelling:
		return l.applyStop(event)
	case RunStarted:
		l.started, l.resumed = event.Time, event.Time
	case RunResumed:
		l.goOn(event.Time)
		l.failure, l.stopping = nil, nil
	case RunUndoing:
		l.goOn(event.Time)
	default:
		l.ended = event.Time
		l.reached(event.Type)
		if !l.resumed.IsZero() {
			l.working += event.Time.Sub(l.resumed)
		}
	}
	switch event.Type {
	case RunFailed, RunInterrupted, RunUndoFailed, RunPaused, RunCancelled, RunUndoing:
		return decode(event, &l.failure)
	}
	return nil
}

// applyStop is called with mu held.
func (l *ledger) applyStop(event journal.Event) error {
	command := &journal.Command{}
	if err := decode(event, command); err != nil {
		return err
	}
	if ends(l.stopping) && !ends(command) { // a run that is to end is not paused
		return nil
	}
	l.stopping, l.undo = command, command.Verb == VerbUndo
	return nil
}

// reached forgets what was asked for when the run has come there. A cancel outlives everything but the
// end that it leads to. It is called with mu held.
func (l *ledger) reached(event string) {
	switch event {
	case RunInterrupted, RunPaused, RunFailed:
		if ends(l.stopping) {
			return
		}
	}
	l.stopping = nil
}

// ends reports a command after which a run never goes on.
func ends(command *journal.Command) bool {
	return command != nil && command.Verb != VerbPause
}

func (l *ledger) applyDecision(event journal.Event) error {
	var decision journal.Command
	if err := decode(event, &decision); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decided[event.Step] = decision
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// decision returns what was decided for a step, nil when nothing was, and a channel that is closed when
// something is.
func (l *ledger) decision(step string) (*journal.Command, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if decision, ok := l.decided[step]; ok {
		return &decision, l.changed
	}
	return nil, l.changed
}

// began is when the run was started first.
func (l *ledger) began() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.started
}

// stop returns the pause or cancel that was asked for.
func (l *ledger) stop() *journal.Command {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}

func (l *ledger) applyItems(event journal.Event) error {
	var items []string
	if err := decode(event, &items); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	step := l.byID[event.Step]
	if step == nil {
		return fault.Newf("replay journal", fault.Corrupt, event.Step, "the plan has no such step")
	}
	step.items, step.index = make([]*task, 0, len(items)), make(map[string]*task, len(items))
	for _, item := range items {
		t := l.newTask(event.Step, item)
		step.items = append(step.items, t)
		step.index[item] = t
	}
	return nil
}

func (l *ledger) applyFinding(event journal.Event) error {
	finding := taskFinding{Step: event.Step, Item: event.Item}
	if err := decode(event, &finding.Finding); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, known := range l.findings { // a repeated attempt reports the same thing again
		if known == finding {
			return nil
		}
	}
	l.findings = append(l.findings, finding)
	return nil
}

func (t *task) apply(event journal.Event) error {
	switch event.Type {
	case StepIntent:
		t.attempt, t.ended, t.open, t.place = event.Attempt, time.Time{}, true, event.Sequence
		if t.intended.IsZero() {
			t.intended = event.Time
		}
	case StepReceipt:
		t.receipt, t.summary = event.Data, nil
		t.failure, t.open, t.place = nil, false, event.Sequence
	case StepVerified:
		t.ended = event.Time
		return decode(event, &t.done)
	case StepFailed:
		t.ended = event.Time
		return decode(event, &t.failure)
	case StepRetry:
		return decode(event, &t.failure)
	case StepInterrupted:
		t.ended = event.Time
	case StepReset:
		t.failure, t.attempt = nil, 0
	case StepSkipped:
		t.ended = event.Time
		if len(event.Data) > 0 { // by an operator; a condition leaves no data
			t.skipped = &journal.Command{}
			return decode(event, t.skipped)
		}
	case StepUndoFailed:
		return decode(event, &t.left)
	case StepUndone:
		t.receipt, t.left, t.open = nil, nil, false
	}
	return nil
}

// all are the step's tasks and the one that stands for it as a whole.
func (s *stepState) all() []*task {
	if !s.fans {
		return []*task{s.whole}
	}
	return append([]*task{s.whole}, s.items...)
}

// failed reports that nothing of the step is at work or to be tried again, and something has failed.
func (s *stepState) failed() bool {
	found := false
	for _, t := range s.all() {
		switch t.state() {
		case TaskFailed:
			found = true
		case TaskRunning, TaskReceived, TaskWaiting:
			return false
		}
	}
	return found
}

func decode(event journal.Event, into any) error {
	if len(event.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(event.Data, into); err != nil {
		return fault.New("read journal event", fault.Corrupt, event.Type, err)
	}
	return nil
}

// received lists the tasks that hold a receipt, in the order they received it.
func (l *ledger) received() []*task {
	return l.inOrder(func(t *task) bool { return t.receipt != nil })
}

// begun lists the tasks that may have something in the world: those that hold a receipt, and those whose
// newest attempt has left none.
func (l *ledger) begun() []*task {
	return l.inOrder(func(t *task) bool { return t.receipt != nil || t.open })
}

func (l *ledger) inOrder(wanted func(*task) bool) []*task {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*task
	for _, step := range l.steps {
		for _, t := range step.work() {
			if wanted(t) {
				out = append(out, t)
			}
		}
	}
	slices.SortFunc(out, func(a, b *task) int { return cmp.Compare(a.place, b.place) })
	return out
}

// hold puts a receipt that the repository kept in its place.
func (l *ledger) hold(t *task, receipt Receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.receipt = receipt
}

// The methods below are the receiptSource that steps read from.

func (l *ledger) receipt(step, item string) Receipt {
	task := l.find(step, item)
	if task == nil || task.state() != TaskVerified {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return task.receipt
}

func (l *ledger) stepsUsing(kind string) []string {
	var ids []string
	for _, step := range l.steps {
		if step.spec.Uses == kind {
			ids = append(ids, step.spec.ID)
		}
	}
	return ids
}

func (l *ledger) fansOut(step string) bool { return l.byID[step].fans }

func (l *ledger) items(step string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var items []string
	for _, task := range l.byID[step].items {
		items = append(items, task.item)
	}
	return items
}
