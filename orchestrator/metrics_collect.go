package orchestrator

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metric is a place in the table of metrics.
type metric int

const (
	runInfo metric = iota
	runState
	runStart
	runDuration
	runComplete
	runRPO
	runRTO
	lastSuccess
	runsHeld
	pointInstant
	stepDuration
	stepTasks
	stepVerified
	taskRetries
	bytesMoved
	findingsFound
)

// metricTable names and explains the metrics. All have the labels plan and cluster before their own.
var metricTable = [...]struct {
	name, help string
	labels     []string
}{
	runInfo:       {"muster_run_info", "The newest run of a plan on a cluster, which all other metrics of the two are about.", []string{"purpose", "run"}},
	runState:      {"muster_run_state", "1 for the state that the newest run is in, 0 for the others.", []string{"state"}},
	runStart:      {"muster_run_start_timestamp_seconds", "When the newest run was started.", nil},
	runDuration:   {"muster_run_duration_seconds", "How long the newest run took from its start to its end, pauses included, or takes so far.", nil},
	runComplete:   {"muster_run_complete", "1 when the newest run ended and everything came back, 0 when it ended otherwise.", nil},
	runRPO:        {"muster_run_rpo_seconds", "Age of the recovery point at the moment of loss, of a run that recovers.", nil},
	runRTO:        {"muster_run_rto_seconds", "From the start until verification ended, of a run that recovers.", nil},
	lastSuccess:   {"muster_run_last_success_timestamp_seconds", "When the newest run ended in which everything came back.", nil},
	runsHeld:      {"muster_runs", "Runs that the journal holds.", []string{"state"}},
	pointInstant:  {"muster_recovery_point_instant_seconds", "The moment, since the epoch, for which the recovery point stands that the newest run sealed or recovered.", nil},
	stepDuration:  {"muster_step_duration_seconds", "How long a step took from its first task's start to its last one's end, or takes so far.", []string{"step", "uses"}},
	stepTasks:     {"muster_step_tasks", "Tasks of a step: its items, or itself.", []string{"step", "uses"}},
	stepVerified:  {"muster_step_tasks_verified", "Tasks of a step that are done and verified.", []string{"step", "uses"}},
	taskRetries:   {"muster_task_retries_total", "Attempts of a step's tasks that failed and were made again.", []string{"step", "uses"}},
	bytesMoved:    {"muster_bytes_total", "Bytes that verified tasks stand for.", []string{"layer"}},
	findingsFound: {"muster_findings", "Findings of the newest run: lost did not come back.", []string{"severity"}},
}

func metricDescriptions() []*prometheus.Desc {
	out := make([]*prometheus.Desc, 0, len(metricTable))
	for m := range metricTable {
		out = append(out, metric(m).description())
	}
	return out
}

func (m metric) description() *prometheus.Desc {
	row := metricTable[m]
	return prometheus.NewDesc(row.name, row.help, append([]string{"plan", "cluster"}, row.labels...), nil)
}

// runStates are the states of runs, for metrics that have one value for each.
var runStates = [...]string{
	RunStatePending, RunStateRunning, RunStatePaused, RunStateInterrupted, RunStateFailed, RunStateCompleted,
	RunStateCancelled, RunStateUndoing, RunStateUndone, RunStateUndoFailed,
}

// collecting hands out the metrics of one report.
type collecting struct {
	to     chan<- prometheus.Metric
	now    time.Time
	report *Report
}

func (c collecting) gauge(m metric, value float64, labels ...string) {
	c.send(m, prometheus.GaugeValue, value, labels)
}

func (c collecting) counter(m metric, value float64, labels ...string) {
	c.send(m, prometheus.CounterValue, value, labels)
}

func (c collecting) send(m metric, kind prometheus.ValueType, value float64, labels []string) {
	labels = append([]string{c.report.Plan, c.report.Cluster}, labels...)
	made, err := prometheus.NewConstMetric(m.description(), kind, value, labels...)
	if err != nil { // a label that is no UTF-8
		made = prometheus.NewInvalidMetric(m.description(), err)
	}
	c.to <- made
}

func (c collecting) run() {
	r := c.report
	c.gauge(runInfo, 1, r.Purpose, r.Run)
	for _, state := range runStates {
		c.gauge(runState, truth(r.State == state), state)
	}
	if r.Started.IsZero() {
		return
	}
	c.gauge(runStart, unix(r.Started))
	c.gauge(runDuration, c.elapsed(r.Started, r.Ended))
	if !r.Ended.IsZero() && !r.stands() {
		c.gauge(runComplete, truth(r.Complete()))
	}
	if r.Verdict != "" {
		c.gauge(runRPO, r.RPOSeconds)
		c.gauge(runRTO, r.RTOSeconds)
	}
}

// stands reports a run that waits to be resumed.
func (r *Report) stands() bool { return r.State == RunStateInterrupted || r.State == RunStatePaused }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (c collecting) elapsed(from, to time.Time) float64 {
	if to.IsZero() {
		to = c.now
	}
	return max(0, to.Sub(from).Seconds())
}

func (c collecting) steps() {
	for _, s := range c.report.Steps {
		c.gauge(stepTasks, float64(s.Tasks), s.ID, s.Uses)
		c.gauge(stepVerified, float64(s.Verified), s.ID, s.Uses)
		c.counter(taskRetries, float64(s.Retries), s.ID, s.Uses)
		if !s.Started.IsZero() {
			c.gauge(stepDuration, c.elapsed(s.Started, s.Ended), s.ID, s.Uses)
		}
	}
}

func (c collecting) results() {
	for _, layer := range c.report.Layers {
		c.counter(bytesMoved, float64(layer.Bytes), layer.Layer)
	}
	counts := map[Severity]int{Lost: 0, Changed: 0, Info: 0}
	for _, finding := range c.report.Findings {
		counts[finding.Severity]++
	}
	for severity, n := range counts {
		c.gauge(findingsFound, float64(n), string(severity))
	}
	switch {
	case c.report.Sealed != nil:
		c.gauge(pointInstant, unix(c.report.Sealed.Instant))
	case !c.report.Instant.IsZero():
		c.gauge(pointInstant, unix(c.report.Instant))
	}
}
