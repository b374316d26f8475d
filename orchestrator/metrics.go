package orchestrator

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterdr/muster/state/journal"
)

// PlanRuns is what metrics tell of one plan on one cluster. They have no label for the run: a series would
// end with it, and an alert would never.
type PlanRuns struct {
	Newest *Report
	// Succeeded is when the newest run ended in which everything came back; zero when there is none.
	Succeeded time.Time
	States    map[string]int // how many runs the journal holds, by state; nil when not counted
}

// PlanRuns sums up all runs of the journal, in the order of their newest runs.
func (r *Runner) PlanRuns(ctx context.Context) ([]PlanRuns, error) {
	headers, err := r.Store.Runs(ctx) // newest first
	if err != nil {
		return nil, err
	}
	type key struct{ plan, cluster string }
	index := map[key]int{}
	var out []PlanRuns
	for _, header := range headers {
		k := key{header.Plan, header.Cluster}
		at, known := index[k]
		if !known {
			at = len(out)
			index[k] = at
			out = append(out, PlanRuns{States: map[string]int{}})
		}
		if err := r.count(ctx, header, &out[at]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// count adds one run, older than those before. Whole journals are read only where their content counts.
func (r *Runner) count(ctx context.Context, header journal.Header, into *PlanRuns) error {
	state, err := r.stateOf(ctx, header.ID)
	if err != nil {
		return err
	}
	success := state == RunStateCompleted && into.Succeeded.IsZero()
	if into.Newest != nil && !success {
		into.States[state]++
		return nil
	}
	report, err := r.Report(ctx, header.ID)
	if err != nil {
		report = unreadable(header, err)
	}
	if into.Newest == nil {
		into.Newest = report
	}
	if report.Complete() {
		into.Succeeded = later(into.Succeeded, report.Ended)
	}
	into.States[report.State]++
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// stateOf is the state that a run's newest event led to, as far as it tells: reports know more of runs in
// format 1.
func (r *Runner) stateOf(ctx context.Context, id string) (string, error) {
	newest, err := r.Store.State(ctx, id)
	if err != nil {
		return "", err
	}
	for _, event := range runTable() {
		if event.Name == newest {
			return event.Dst, nil
		}
	}
	switch newest {
	case RunPausing, RunCancelling:
		return RunStateRunning, nil
	}
	report, err := r.Report(ctx, id)
	if err != nil {
		return stateUnreadable, nil // the list of runs says why
	}
	return report.State, nil
}

// LastSuccess is when the newest run of a plan on a cluster ended in which everything came back; zero
// when there is none.
func (r *Runner) LastSuccess(ctx context.Context, plan, cluster string) (time.Time, error) {
	headers, err := r.Store.Runs(ctx) // newest first
	if err != nil {
		return time.Time{}, err
	}
	for _, header := range headers {
		if header.Plan != plan || header.Cluster != cluster {
			continue
		}
		state, err := r.stateOf(ctx, header.ID)
		if err != nil {
			return time.Time{}, err
		}
		if state != RunStateCompleted {
			continue
		}
		if report, err := r.Report(ctx, header.ID); err == nil && report.Complete() {
			return report.Ended, nil
		}
	}
	return time.Time{}, nil
}

// Metrics collects the numbers of runs for Prometheus. Names and units follow its conventions:
// https://prometheus.io/docs/practices/naming/
type Metrics struct {
	Runs []PlanRuns
	Now  time.Time
}

// Describe implements prometheus.Collector.
func (m Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range metricDescriptions() {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m Metrics) Collect(to chan<- prometheus.Metric) {
	for _, runs := range m.Runs {
		c := collecting{to: to, now: m.Now, report: runs.Newest}
		c.run()
		c.steps()
		c.results()
		if !runs.Succeeded.IsZero() {
			c.gauge(lastSuccess, unix(runs.Succeeded))
		}
		for state, n := range runs.States {
			c.gauge(runsHeld, float64(n), state)
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
