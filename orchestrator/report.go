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
	Steps    []StepReport `json:"steps"`
	Layers   []Summary    `json:"layers,omitempty"`
	Findings []Finding    `json:"findings,omitempty"`
	Failure  *Failure     `json:"failure,omitempty"`

	// The rest is there when a run that recovers a cluster has ended.
	Verdict    string  `json:"verdict,omitempty"`   // complete | incomplete
	RPOSeconds float64 `json:"rpoSeconds,omitzero"` // age of the recovery point at the moment of loss
	RTOSeconds float64 `json:"rtoSeconds,omitzero"` // from the first start until verification ended
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
	Tasks    int      `json:"tasks"`
	Verified int      `json:"verified"`
	Attempts int      `json:"attempts"` // of the task that needed most
	Seconds  float64  `json:"seconds"`  // from the first task's intent to the last one's end
	Done     Amount   `json:"done"`
	Failure  *Failure `json:"failure,omitempty"`
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
	l := x.ledger
	out := &Report{
		Run: x.id, Plan: x.header.Plan, Digest: x.header.PlanDigest, Purpose: x.header.Purpose,
		Cluster: x.header.Cluster, recovery: x.recovery, State: l.run.state(),
	}
	for _, step := range l.steps {
		out.Steps = append(out.Steps, x.stepReport(step))
	}
	out.Layers = x.layers()
	l.mu.Lock()
	defer l.mu.Unlock()
	out.Started, out.Ended, out.Failure = l.started, l.ended, l.failure
	out.Working = l.working.Seconds()
	if !l.ended.IsZero() {
		out.Seconds = l.ended.Sub(l.started).Seconds()
	}
	for _, finding := range l.findings {
		out.Findings = append(out.Findings, finding.Finding)
	}
	for _, step := range l.steps {
		out.Findings = append(out.Findings, findingsOf(step)...)
	}
	out.judge()
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
	out := StepReport{ID: step.spec.ID, Uses: step.spec.Uses, State: stepStateName(step), Tasks: len(step.work())}
	var first, last time.Time
	for _, t := range append([]*task{step.whole}, step.items...) {
		if t.state() == TaskVerified {
			out.Verified++
		}
		if t.failure != nil && t.state() != TaskVerified {
			out.Failure = t.failure
		}
		out.Attempts = max(out.Attempts, t.attempt)
		out.Done.Bytes += t.done.Bytes
		out.Done.Items += t.done.Items
		if !t.intended.IsZero() && (first.IsZero() || t.intended.Before(first)) {
			first = t.intended
		}
		if t.ended.After(last) {
			last = t.ended
		}
	}
	if !last.IsZero() {
		out.Seconds = last.Sub(first).Seconds()
	}
	return out
}

// stepStateName is the state of the task that is furthest from done.
func stepStateName(step *stepState) string {
	if !step.fans || step.items == nil {
		return step.whole.state() // a fan-out can fail, or be left out, before it has items
	}
	for _, state := range []string{TaskFailed, TaskRunning, TaskReceived, TaskWaiting, TaskInterrupted, TaskPending, TaskUndone} {
		for _, t := range step.items {
			if t.state() == state {
				return state
			}
		}
	}
	return TaskVerified
}

// layers adds up what the verified tasks of each layer stand for.
func (x *execution) layers() []Summary {
	var out []Summary
	index := map[string]int{}
	for _, step := range x.ledger.steps {
		for _, t := range step.work() {
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

// unreadable stands for a run whose journal this program can't follow, so that one such run does
// not hide the others.
func unreadable(header journal.Header, err error) *Report {
	return &Report{
		Run: header.ID, Plan: header.Plan, Digest: header.PlanDigest, Purpose: header.Purpose, Cluster: header.Cluster,
		State: "unreadable", Started: header.Created, Failure: &Failure{Kind: fault.KindOf(err).String(), Error: err.Error()},
	}
}
