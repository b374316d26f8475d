package orchestrator

import (
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/state/journal"
)

// View is a run as somebody sees it who watches it.
type View struct {
	Time   time.Time `json:"time"` // when it was seen
	Report *Report   `json:"report"`
	// Owner is the process that works on the run, as host/pid; empty when none does. A run that should
	// be at work and has no owner is an orphan: its process died.
	Owner   string        `json:"owner,omitempty"`
	Orphan  bool          `json:"orphan,omitempty"`
	Running []RunningTask `json:"running"` // in the plan's order, those first that run longest
	// Paces tell of each step that is at work how fast it goes.
	Paces map[string]Pace `json:"paces,omitempty"`
	// Findings counts them by severity; the report lists them when the watch ends.
	Findings map[Severity]int `json:"findings,omitempty"`
	Last     *TaskFailure     `json:"lastError,omitempty"`
	Blockers []Blocker        `json:"blockers,omitempty"` // what a run that has not begun waits for
	// Trouble says why this view may be old: the journal does not answer.
	Trouble string `json:"trouble,omitempty"`
}

// RunningTask is a task that is at work, or waits for its next attempt.
type RunningTask struct {
	Update
	State   string    `json:"state"` // running, received or waiting
	Attempt int       `json:"attempt"`
	Since   time.Time `json:"since"`          // of this attempt's intent
	Until   time.Time `json:"until,omitzero"` // of a waiting task: when its next attempt begins
	Error   string    `json:"error,omitempty"`
	Pace
	// Question and Answer are there when a person has to decide: what is asked, and what to type.
	Question string `json:"question,omitempty"`
	Answer   string `json:"answer,omitempty"`
}

// TaskFailure is the newest thing that went wrong in a task.
type TaskFailure struct {
	Time    time.Time `json:"time"`
	Step    string    `json:"step"`
	Item    string    `json:"item,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Failure
}

// Blocker is a resource that another run holds.
type Blocker struct {
	Resource string `json:"resource"`
	Run      string `json:"run"`
}

// Asker is implemented by steps that wait for a person. Asks tells what is asked, and the command that
// answers it. It does no I/O.
type Asker interface {
	Asks(run, step string) (question, answer string)
}

// onlooker keeps what a view needs beside the ledger, event by event.
type onlooker struct {
	*execution
	meter   *meter
	steps   map[string]StepReport   // as they were when last looked at
	touched map[string]bool         // the steps whose report is old
	running map[string]*RunningTask // by step/item
	last    *TaskFailure

	// What the run's owner says, and who that is.
	owner     string
	alive     bool
	published map[string]Update
	blockers  []Blocker
	trouble   string
}

func newOnlooker(x *execution) *onlooker {
	o := &onlooker{execution: x, meter: newMeter(), steps: map[string]StepReport{}, touched: map[string]bool{}, running: map[string]*RunningTask{}}
	for _, step := range x.ledger.steps {
		o.touched[step.spec.ID] = true
	}
	return o
}

// see takes in one event.
func (o *onlooker) see(event journal.Event) error {
	if err := o.ledger.replay([]journal.Event{event}); err != nil {
		return err
	}
	if event.Step == "" {
		return nil
	}
	o.touched[event.Step] = true
	key := event.Step + "/" + event.Item
	switch event.Type {
	case StepIntent:
		o.running[key] = o.begun(event)
	case StepReceipt:
		if t := o.running[key]; t != nil {
			t.State = TaskReceived
		}
	case StepRetry:
		return o.retried(event)
	case StepFailed, StepUndoFailed:
		delete(o.running, key)
		return o.failed(event)
	case StepVerified, StepInterrupted, StepSkipped, StepUndone, StepReset:
		delete(o.running, key)
	}
	return nil
}

func (o *onlooker) begun(event journal.Event) *RunningTask {
	t := &RunningTask{
		Update: Update{Step: event.Step, Item: event.Item},
		State:  TaskRunning, Attempt: event.Attempt, Since: event.Time,
	}
	step := o.ledger.byID[event.Step]
	if !o.definitions[step.spec.Uses].Waits {
		return t
	}
	worker, err := o.newStep(step.spec, event.Item)
	if err != nil {
		return t // the runner of this step says why
	}
	if asker, ok := worker.(Asker); ok {
		t.Question, t.Answer = asker.Asks(o.id, event.Step)
	}
	return t
}

func (o *onlooker) retried(event journal.Event) error {
	if err := o.failed(event); err != nil {
		return err
	}
	if t := o.running[event.Step+"/"+event.Item]; t != nil {
		t.State, t.Error = TaskWaiting, o.last.Error
		t.Until = event.Time.Add(time.Duration(o.last.RetryAfter * float64(time.Second)))
	}
	return nil
}

func (o *onlooker) failed(event journal.Event) error {
	o.last = &TaskFailure{Time: event.Time, Step: event.Step, Item: event.Item, Attempt: event.Attempt}
	return decode(event, &o.last.Failure)
}

// view draws up what is known now. A complete one also holds what takes long to add up.
func (o *onlooker) view(complete bool) *View {
	now := o.Now().UTC()
	v := &View{
		Time: now, Owner: o.owner, Last: o.last, Blockers: o.blockers, Trouble: o.trouble,
		Running: []RunningTask{}, Paces: map[string]Pace{}, Findings: map[Severity]int{},
	}
	if complete {
		v.Report = o.report()
	} else {
		v.Report = o.outline(o.stepReports())
	}
	v.Orphan = !o.alive && atWork(v.Report.State)
	for _, finding := range o.ledger.report() {
		v.Findings[finding.Severity]++
	}
	v.Running = o.tasks(now)
	o.paces(v)
	o.meter.sweep()
	return v
}

// atWork are the states in which a run has an owner, unless its process died.
func atWork(state string) bool { return state == RunStateRunning || state == RunStateUndoing }

// stepReports looks again at those steps only to which something happened.
func (o *onlooker) stepReports() []StepReport {
	out := make([]StepReport, 0, len(o.ledger.steps))
	for _, step := range o.ledger.steps {
		id := step.spec.ID
		if o.touched[id] {
			o.steps[id] = o.stepReport(step)
		}
		out = append(out, o.steps[id])
	}
	clear(o.touched)
	return out
}

func (o *onlooker) tasks(now time.Time) []RunningTask {
	place := make(map[string]int, len(o.ledger.steps))
	for i, step := range o.ledger.steps {
		place[step.spec.ID] = i
	}
	out := make([]RunningTask, 0, len(o.running))
	for key, t := range o.running {
		if u, told := o.published[key]; told {
			t.Update = u
		}
		if t.State == TaskRunning {
			t.Pace = o.meter.pace(key, t.Since, sample{now, t.Done, t.share()})
		}
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b RunningTask) int {
		if order := place[a.Step] - place[b.Step]; order != 0 {
			return order
		}
		if order := a.Since.Compare(b.Since); order != 0 {
			return order
		}
		return strings.Compare(a.Item, b.Item)
	})
	return out
}

// paces adds up what the tasks of each step at work have done.
func (o *onlooker) paces(v *View) {
	moved := map[string]*sample{}
	for _, t := range v.Running {
		s := moved[t.Step]
		if s == nil {
			s = &sample{at: v.Time}
			moved[t.Step] = s
		}
		s.done.Bytes += t.Done.Bytes
		s.done.Items += t.Done.Items
		s.share += t.share()
	}
	for _, step := range v.Report.Steps {
		s := moved[step.ID]
		if s == nil {
			continue
		}
		s.done.Bytes += step.Done.Bytes
		s.done.Items += step.Done.Items
		s.share = (s.share + float64(step.Verified)) / float64(max(1, step.Tasks))
		v.Paces[step.ID] = o.meter.pace(step.ID, step.Started, *s)
	}
}
