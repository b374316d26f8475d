package orchestrator

import (
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
	receipts []*task // in the order they came; a repeated one moves to the end
}

// stepState is one step of the plan. Steps that do not fan out have the one item "".
type stepState struct {
	spec  plans.Step
	whole *task   // carries skipped and blocked, and the work of a step without items
	items []*task // nil until the fan-out is frozen
	fans  bool
}

// task is one unit with a lifecycle.
type task struct {
	step string
	item string
	lifecycle
	attempt  int
	receipt  Receipt
	failure  *Failure
	intended time.Time // of the first attempt
	ended    time.Time
	done     Amount
	tookOver bool // an earlier process worked on it
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
		write: write,
		run:   newLifecycle(runTable(), RunStatePending, write),
		byID:  map[string]*stepState{},
	}
	for _, spec := range plan.Spec.Steps {
		step := &stepState{spec: spec, fans: spec.ForEach != nil || fans(spec.Uses)}
		step.whole = l.newTask(spec.ID, "")
		l.steps = append(l.steps, step)
		l.byID[spec.ID] = step
	}
	return l
}

func (l *ledger) newTask(step, item string) *task {
	return &task{step: step, item: item, lifecycle: newLifecycle(taskTable(), TaskPending, l.write)}
}

// tasks are the units that do the step's work, none as long as a fan-out is unknown.
func (s *stepState) tasks() []*task {
	if s.fans {
		return s.items
	}
	return []*task{s.whole}
}

// record makes an event durable, then moves the state by it.
func (l *ledger) record(ctx context.Context, event journal.Event) error {
	machine, err := l.machineOf(event)
	if err != nil {
		return err
	}
	if machine == nil {
		if err := l.write(ctx, event); err != nil {
			return err
		}
		return l.apply(event)
	}
	if err := machine.fire(ctx, event); err != nil {
		return err
	}
	return l.apply(event)
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
	if strings.HasPrefix(event.Type, "run.") {
		return &l.run, nil
	}
	if event.Type == StepItems || event.Type == StepFinding {
		return nil, nil
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
	for _, t := range s.items {
		if t.item == item {
			return t
		}
	}
	return nil
}

// apply updates what the lifecycles themselves don't hold.
func (l *ledger) apply(event journal.Event) error {
	if strings.HasPrefix(event.Type, "run.") {
		return l.applyRun(event)
	}
	if event.Type == StepItems {
		return l.applyItems(event)
	}
	if event.Type == StepFinding {
		return l.applyFinding(event)
	}
	moved := l.find(event.Step, event.Item)
	l.mu.Lock()
	defer l.mu.Unlock()
	if event.Type == StepReceipt {
		l.receipts = append(slices.DeleteFunc(l.receipts, func(known *task) bool { return known == moved }), moved)
	}
	return moved.apply(event)
}

func (l *ledger) applyRun(event journal.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch event.Type {
	case RunStarted:
		l.started, l.resumed = event.Time, event.Time
	case RunResumed:
		l.resumed, l.ended, l.failure = event.Time, time.Time{}, nil
	case RunUndoing:
	default:
		l.ended = event.Time
		if !l.resumed.IsZero() {
			l.working += event.Time.Sub(l.resumed)
		}
	}
	if event.Type != RunFailed && event.Type != RunInterrupted {
		return nil
	}
	return decode(event, &l.failure)
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
	step.items = make([]*task, 0, len(items))
	for _, item := range items {
		step.items = append(step.items, l.newTask(event.Step, item))
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
		t.attempt = event.Attempt
		if t.intended.IsZero() {
			t.intended = event.Time
		}
	case StepReceipt:
		t.receipt = event.Data
		t.failure = nil
	case StepVerified:
		t.ended = event.Time
		return decode(event, &t.done)
	case StepFailed:
		t.ended = event.Time
		return decode(event, &t.failure)
	case StepRetry:
		return decode(event, &t.failure)
	case StepInterrupted:
		t.tookOver = true
	case StepUndone:
		t.receipt = nil
	}
	return nil
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
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*task
	for _, t := range l.receipts {
		if t.receipt != nil {
			out = append(out, t)
		}
	}
	return out
}

// The three methods below are the receiptSource that steps read from.

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
