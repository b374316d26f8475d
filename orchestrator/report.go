package orchestrator

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// Report tells how a run stands: the final table, `muster runs show` and its JSON form.
type Report struct {
	Run     string `json:"run"`
	Plan    string `json:"plan"`
	Digest  string `json:"planDigest"`
	Purpose string `json:"purpose"`
	Cluster string `json:"cluster,omitempty"`
	recovery
	State    string       `json:"state"`
	Started  time.Time    `json:"started"`
	Ended    time.Time    `json:"ended,omitzero"`
	Seconds  float64      `json:"seconds"` // from the first start to the end, pauses included
	Working  float64      `json:"workingSeconds"`
	Pauses   []Pause      `json:"pauses,omitempty"` // when nobody worked on it
	Steps    []StepReport `json:"steps"`
	Layers   []Summary    `json:"layers,omitempty"`
	Sealed   *Sealed      `json:"sealed,omitempty"` // of a capture
	Findings []Finding    `json:"findings,omitempty"`
	Failure  *Failure     `json:"failure,omitempty"`

	// The rest is there when a run that recovers a cluster has ended.
	Verdict    string  `json:"verdict,omitempty"`   // complete | incomplete
	RPOSeconds float64 `json:"rpoSeconds,omitzero"` // age of the recovery point at the moment of loss
	RTOSeconds float64 `json:"rtoSeconds,omitzero"` // from the first start until verification ended

	Critical *CriticalPath `json:"criticalPath,omitempty"` // of a run that has ended, or stands still
}

// The verdicts of runs that recover.
const (
	VerdictComplete   = "complete"
	VerdictIncomplete = "incomplete"
)

// StepReport tells how one step stands.
type StepReport struct {
	ID       string   `json:"id"`
	Uses     string   `json:"uses"`
	State    string   `json:"state"`
	Needs    []string `json:"needs,omitempty"`
	WaitsFor []string `json:"waitsFor,omitempty"` // the needs that have not ended well, of a step that has not begun
	Tasks    int      `json:"tasks"`
	Verified int      `json:"verified"`
	Attempts int      `json:"attempts"`          // of the task that needed most
	Retries  int      `json:"retries,omitempty"` // of all tasks
	// Started is the first task's intent, zero for a step that was left out; Ended is zero as long as a
	// task is at work or still to come.
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	LastItem string    `json:"lastItem,omitempty"` // that ended last
	Seconds  float64   `json:"seconds"`            // from the first task's intent to the last one's end
	Done     Amount    `json:"done"`
	Failure  *Failure  `json:"failure,omitempty"`
}

// Complete reports whether everything came to a good end and nothing was lost on the way.
func (r *Report) Complete() bool {
	if r.State != RunStateCompleted {
		return false
	}
	for _, finding := range r.Findings {
		if finding.Severity == Lost {
			return false
		}
	}
	return true
}

func (x *execution) report() *Report {
	steps := make([]StepReport, 0, len(x.ledger.steps))
	for _, step := range x.ledger.steps {
		steps = append(steps, x.stepReport(step))
	}
	out := x.outline(steps)
	out.Layers, out.Sealed = x.layers(), x.sealed()
	out.Findings = x.ledger.report()
	out.judge()
	return out
}

// outline is a report without what takes long to add up: layers and findings.
func (x *execution) outline(steps []StepReport) *Report {
	tellNeeds(steps)
	l := x.ledger
	out := &Report{
		Run: x.id, Plan: x.header.Plan, Digest: x.header.PlanDigest, Purpose: x.header.Purpose,
		Cluster: x.header.Cluster, recovery: x.recovery, State: l.run.state(), Steps: steps,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out.Started, out.Ended, out.Failure = l.started, l.ended, l.failure
	out.Working, out.Pauses = l.working.Seconds(), l.pauses
	if !l.ended.IsZero() {
		out.Seconds = l.ended.Sub(l.started).Seconds()
	}
	out.Critical = criticalPath(out)
	return out
}

// tellNeeds tells of each step that has not begun what it waits for.
func tellNeeds(steps []StepReport) {
	well := make(map[string]bool, len(steps))
	for _, s := range steps {
		well[s.ID] = s.State == TaskVerified || s.State == TaskSkipped
	}
	for i := range steps {
		s := &steps[i]
		s.WaitsFor = nil
		if s.State != TaskPending && s.State != TaskBlocked || !s.Started.IsZero() {
			continue
		}
		for _, need := range s.Needs {
			if !well[need] {
				s.WaitsFor = append(s.WaitsFor, need)
			}
		}
	}
}

// report lists all findings.
func (l *ledger) report() []Finding {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Finding
	for _, finding := range l.findings {
		out = append(out, finding.Finding)
	}
	for _, step := range l.steps {
		out = append(out, findingsOf(step)...)
	}
	return out
}

// findingsOf are what an operator left out, and what undo left in the world. It is called with the
// ledger's mu held.
func findingsOf(step *stepState) []Finding {
	var out []Finding
	for _, t := range step.all() {
		if step.spec.Optional && t.state() == TaskFailed && t.failure != nil {
			out = append(out, Finding{Severity: Changed, Layer: "plan", Subject: "step " + taskName(t), Text: "it failed, and is optional: " + t.failure.Error})
		}
		if t.skipped != nil {
			out = append(out, Finding{Severity: Lost, Layer: "plan", Subject: "step " + taskName(t), Text: asked("skipped", t.skipped)})
		}
		if t.left != nil {
			out = append(out, Finding{Severity: Lost, Layer: "undo", Subject: "step " + taskName(t), Text: t.left.Error})
		}
	}
	return out
}

// judge gives a run that recovers its verdict and its two measures.
func (r *Report) judge() {
	if r.Ended.IsZero() || r.State == RunStateInterrupted || r.State == RunStatePaused || r.Purpose != string(plans.Recover) && r.Purpose != string(plans.Drill) {
		return
	}
	r.RPOSeconds, r.RTOSeconds, r.Verdict = r.Lost.Sub(r.Instant).Seconds(), r.Seconds, VerdictIncomplete
	if r.Complete() {
		r.Verdict = VerdictComplete
	}
}

func (x *execution) stepReport(step *stepState) StepReport {
	x.ledger.mu.Lock()
	defer x.ledger.mu.Unlock()
	out := StepReport{
		ID: step.spec.ID, Uses: step.spec.Uses, Needs: step.spec.Needs, State: stepStateName(step),
		Tasks: len(step.work()), Retries: step.retries,
	}
	for _, t := range step.all() {
		out.add(t)
	}
	if !out.Started.IsZero() && !out.Ended.IsZero() {
		out.Seconds = out.Ended.Sub(out.Started).Seconds()
	}
	if !hasEnded(step) {
		out.Ended = time.Time{}
	}
	return out
}

// add counts a task. It is called with the ledger's mu held.
func (s *StepReport) add(t *task) {
	state := t.state()
	if state == TaskVerified {
		s.Verified++
	}
	if t.failure != nil && state != TaskVerified {
		s.Failure = t.failure
	}
	s.Attempts = max(s.Attempts, t.attempt)
	s.Done.Bytes += t.done.Bytes
	s.Done.Items += t.done.Items
	if !t.intended.IsZero() && (s.Started.IsZero() || t.intended.Before(s.Started)) {
		s.Started = t.intended
	}
	if t.ended.After(s.Ended) {
		s.Ended, s.LastItem = t.ended, t.item
	}
}

// hasEnded reports a step of which no task is at work or, unless one has failed, still to come.
func hasEnded(step *stepState) bool {
	failed, pending := false, false
	for _, t := range step.all() {
		switch t.state() {
		case TaskRunning, TaskReceived, TaskWaiting:
			return false
		case TaskFailed, TaskInterrupted:
			failed = true
		case TaskPending:
			pending = pending || t != step.whole || !step.fans
		}
	}
	return failed || !pending
}

// stepStateName is the state of the task that is furthest from done.
func stepStateName(step *stepState) string {
	if whole := step.whole.state(); !step.fans || step.items == nil || whole == TaskSkipped {
		return whole // a fan-out can fail, or be left out, before it has items
	}
	seen := map[string]bool{}
	for _, t := range step.items {
		seen[t.state()] = true
	}
	for _, state := range []string{TaskFailed, TaskRunning, TaskReceived, TaskWaiting, TaskInterrupted, TaskPending, TaskUndone} {
		if seen[state] {
			return state
		}
	}
	return TaskVerified
}

// layers adds up what the verified tasks of each layer stand for.
func (x *execution) layers() []Summary {
	var out []Summary
	index := map[string]int{}
	for _, step := range x.ledger.steps {
		if !x.sumsUp(step.spec.Uses) {
			continue
		}
		x.ledger.mu.Lock()
		tasks := step.work()
		x.ledger.mu.Unlock()
		for _, t := range tasks {
			summary, ok := x.summary(step, t)
			if !ok {
				continue
			}
			at, known := index[summary.Layer]
			if !known {
				index[summary.Layer] = len(out)
				out = append(out, summary)
				continue
			}
			out[at] = out[at].plus(summary)
		}
	}
	return out
}

// sumsUp reports a kind of step that stands for a layer.
func (r *Runner) sumsUp(uses string) bool {
	definition, ok := r.definitions[uses]
	if !ok {
		return false
	}
	_, sums := definition.New().(Summarizer)
	return sums
}

func (x *execution) summary(step *stepState, t *task) (Summary, bool) {
	receipt := x.ledger.receipt(t.step, t.item)
	if receipt == nil {
		return Summary{}, false
	}
	if kept, ok := isKept(receipt); ok { // this process has not fetched it
		if kept.Summary == nil {
			return Summary{}, false
		}
		return *kept.Summary, kept.Summary.Layer != ""
	}
	worker, err := x.newStep(step.spec, t.item)
	if err != nil {
		return Summary{}, false
	}
	summarizer, ok := worker.(Summarizer)
	if !ok {
		return Summary{}, false
	}
	summary, err := summarizer.Summarize(receipt)
	if err != nil {
		x.Log.Warn("a receipt cannot be read for the report", "step", t.step, "item", t.item, "error", err)
		return Summary{}, false
	}
	return summary, summary.Layer != ""
}

func (s Summary) plus(other Summary) Summary {
	s.Expected += other.Expected
	s.Done += other.Done
	s.Bytes += other.Bytes
	if s.Digest != other.Digest {
		s.Digest = ""
	}
	if other.Text != "" && !strings.Contains(s.Text, other.Text) {
		s.Text = strings.TrimPrefix(s.Text+", "+other.Text, ", ")
	}
	return s
}

// facts are what expressions of the plan can speak of.
func (x *execution) facts() plans.Facts {
	return plans.Facts{Cluster: x.plan.Cluster, Machines: x.plan.Machines, Point: x.Point, Now: x.Now(), Receipts: x.decodedReceipts}
}

func (x *execution) decodedReceipts() map[string]any {
	receipts := map[string]any{}
	for _, step := range x.ledger.steps {
		var content any
		if receipt := x.ledger.receipt(step.spec.ID, ""); receipt != nil && json.Unmarshal(receipt, &content) == nil {
			receipts[step.spec.ID] = content
		}
	}
	return receipts
}

// Runs lists all runs, newest first, with the state each has now.
func (r *Runner) Runs(ctx context.Context) ([]*Report, error) {
	headers, err := r.Store.Runs(ctx)
	if err != nil {
		return nil, err
	}
	out := []*Report{}
	for _, header := range headers {
		report, err := r.Report(ctx, header.ID)
		if err != nil {
			report = unreadable(header, err)
		}
		out = append(out, report)
	}
	return out, nil
}

// Final reports whether the run has ended for good: it cannot be resumed.
func (r *Report) Final() bool { return isFinal(r.State) }

// stateUnreadable stands in lists for the state of a run that can't be told.
const stateUnreadable = "unreadable"

// unreadable stands for a run whose journal this program can't follow, so that one such run does
// not hide the others.
func unreadable(header journal.Header, err error) *Report {
	return &Report{
		Run: header.ID, Plan: header.Plan, Digest: header.PlanDigest, Purpose: header.Purpose, Cluster: header.Cluster,
		State: stateUnreadable, Started: header.Created, Failure: &Failure{Kind: fault.KindOf(err).String(), Error: err.Error()},
	}
}
