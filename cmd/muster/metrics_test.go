package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/musterdr/muster/orchestrator"
)

// parsedMetrics parses Prometheus' text format, and lets Prometheus' own linter look at it.
func parsedMetrics(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return families
}

// valueAt is the value of the metric with these labels: name=value. Without one it is false.
func valueAt(families map[string]*dto.MetricFamily, name string, labels ...string) (float64, bool) {
	for _, m := range families[name].GetMetric() {
		have := map[string]bool{}
		for _, l := range m.GetLabel() {
			have[l.GetName()+"="+l.GetValue()] = true
		}
		all := true
		for _, l := range labels {
			all = all && have[l]
		}
		if all {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue(), true
		}
	}
	return 0, false
}

func wantValue(t *testing.T, families map[string]*dto.MetricFamily, value float64, name string, labels ...string) {
	t.Helper()
	if got, found := valueAt(families, name, labels...); !found || got != value {
		t.Errorf("%s%v is %g (there: %t), want %g", name, labels, got, found, value)
	}
}

func (d *desk) metricsIn(file string) map[string]*dto.MetricFamily {
	d.t.Helper()
	content, err := os.ReadFile(d.path(file))
	if err != nil {
		d.t.Fatal(err)
	}
	return parsedMetrics(d.t, string(content))
}

func TestMetricsFile(t *testing.T) {
	d := newDesk(t)
	file := d.path("muster.prom")
	before := float64(time.Now().Unix())
	if _, said, err := d.muster(t.Context(), "run", "quick", "--metrics-file", file); err != nil {
		t.Fatal(err, said)
	}
	m := d.metricsIn("muster.prom")
	of := []string{"plan=quick", "cluster=prod"}
	wantValue(t, m, 1, "muster_run_info", append(of, "purpose=capture", "run="+d.run())...)
	wantValue(t, m, 1, "muster_run_state", append(of, "state=completed")...)
	wantValue(t, m, 0, "muster_run_state", append(of, "state=failed")...)
	wantValue(t, m, 1, "muster_run_complete", of...)
	wantValue(t, m, 2, "muster_step_tasks", append(of, "step=first", "uses=approve")...)
	wantValue(t, m, 2, "muster_step_tasks_verified", append(of, "step=first")...)
	wantValue(t, m, 0, "muster_task_retries_total", append(of, "step=second")...)
	wantValue(t, m, 0, "muster_findings", append(of, "severity=lost")...)
	if v, _ := valueAt(m, "muster_step_duration_seconds", "step=second"); v < 0.3 || v > 60 {
		t.Errorf("the second step took %g s", v)
	}
	success, found := valueAt(m, "muster_run_last_success_timestamp_seconds", of...)
	if !found || success < before || success > before+600 {
		t.Errorf("last success at %g", success)
	}

	// The same plan fails: the last success stays.
	documents := strings.Replace(strings.ReplaceAll(decidingPlans, "$DIR", d.dir), "within: 300ms, onTimeout: approve", "within: 10ms", 1)
	if err := os.WriteFile(d.path("muster.yaml"), []byte(documents), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.muster(t.Context(), "run", "quick", "--metrics-file", file); err == nil {
		t.Fatal("it did not fail")
	}
	m = d.metricsIn("muster.prom")
	wantValue(t, m, 1, "muster_run_state", append(of, "state=failed")...)
	wantValue(t, m, 0, "muster_run_complete", of...)
	wantValue(t, m, success, "muster_run_last_success_timestamp_seconds", of...)

	// Resumed, it fails again; all runs together say the same, and how many there are.
	if _, _, err := d.muster(t.Context(), "runs", "resume", d.run(), "--metrics-file", d.path("again.prom")); err == nil {
		t.Fatal("it did not fail")
	}
	wantValue(t, d.metricsIn("again.prom"), 1, "muster_run_state", append(of, "state=failed")...)
	if _, _, err := d.muster(t.Context(), "run", "rejected"); err == nil {
		t.Fatal("it did not fail")
	}
	printed, said, err := d.muster(t.Context(), "runs", "metrics")
	if err != nil {
		t.Fatal(err, said)
	}
	m = parsedMetrics(t, printed)
	wantValue(t, m, success, "muster_run_last_success_timestamp_seconds", of...)
	wantValue(t, m, 1, "muster_run_state", append(of, "state=failed")...)
	wantValue(t, m, 1, "muster_run_state", "plan=rejected", "state=failed")
	wantValue(t, m, 1, "muster_runs", append(of, "state=completed")...)
	wantValue(t, m, 1, "muster_runs", append(of, "state=failed")...)
	if left, err := os.ReadDir(d.dir); err != nil || strings.Contains(names(left), "muster.prom1") {
		t.Errorf("files are left: %s, %v", names(left), err)
	}
}

func names(entries []os.DirEntry) string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestMetricsFileIsTriedBeforeAnythingRuns(t *testing.T) {
	d := newDesk(t)
	_, _, err := d.muster(t.Context(), "run", "quick", "--metrics-file", d.path("no-such-folder/muster.prom"))
	if exitCode(err) != exitNotFound {
		t.Error(err)
	}
	if printed, _, err := d.muster(t.Context(), "runs", "list", "-o", "json"); err != nil || strings.TrimSpace(printed) != "[]" {
		t.Errorf("%s, %v", printed, err)
	}
}

// TestMetricsOfARecovery has every metric there is.
func TestMetricsOfARecovery(t *testing.T) {
	r := completedRun().Report
	r.Purpose, r.Verdict = "recover", "incomplete"
	r.Layers = []orchestrator.Summary{{Layer: "machines", Unit: "machines", Done: 3, Expected: 3, Bytes: 31 * gib}}
	r.Findings = []orchestrator.Finding{{Severity: orchestrator.Lost, Layer: "machines", Subject: "x", Text: "y"}}
	r.Steps[1].Retries = 4
	r.Sealed = &orchestrator.Sealed{Point: "prod-1", Instant: moment(0)}
	var out bytes.Buffer
	runs := []orchestrator.PlanRuns{{Newest: r, Succeeded: moment(0), States: map[string]int{"completed": 2}}}
	families, err := metricsOf(runs, moment(time.Hour)).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&out, family); err != nil {
			t.Fatal(err)
		}
	}
	m := parsedMetrics(t, out.String())
	wantValue(t, m, 3600, "muster_run_rpo_seconds")
	wantValue(t, m, 730, "muster_run_rto_seconds")
	wantValue(t, m, 31*gib, "muster_bytes_total", "layer=machines")
	wantValue(t, m, 4, "muster_task_retries_total", "step=restore-machines")
	wantValue(t, m, 1, "muster_findings", "severity=lost")
	wantValue(t, m, 0, "muster_run_complete")
	wantValue(t, m, float64(moment(0).Unix()), "muster_recovery_point_instant_seconds")
	if len(m) != 16 {
		t.Errorf("%d metrics", len(m))
	}
	golden(t, "testdata/metrics.prom", out.String())
}

// TestMetricsOfARunThatRuns counts its time to now.
func TestMetricsOfARunThatRuns(t *testing.T) {
	r := newView(orchestrator.RunStateRunning, 0, drawnStep("a", "x", orchestrator.TaskRunning, time.Second, 0)).Report
	families, err := metricsOf([]orchestrator.PlanRuns{{Newest: r}}, moment(time.Minute)).Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]*dto.MetricFamily{}
	for _, family := range families {
		m[family.GetName()] = family
	}
	wantValue(t, m, 60, "muster_run_duration_seconds")
	wantValue(t, m, 59, "muster_step_duration_seconds", "step=a")
	if _, there := m["muster_run_complete"]; there {
		t.Error("it has not ended")
	}
}

// TestMetricsFileIsWrittenWhileRunsAreAtWork also finds the file whole whenever it looks.
func TestMetricsFileIsWrittenWhileRunsAreAtWork(t *testing.T) {
	d := newDesk(t)
	app := &app{out: io.Discard, diagnostics: os.Stderr, now: time.Now}
	app.state.directory = d.path("state")
	m, err := newMetricsFile(d.path("muster.prom"), app.now, app.log())
	if err != nil {
		t.Fatal(err)
	}
	m.every = time.Millisecond
	r := newView(orchestrator.RunStateRunning, 0, drawnStep("a", "x", orchestrator.TaskRunning, 0, 0)).Report
	var asked atomic.Int64
	m.perRun()[0](orchestrator.RunInfo{Report: func() *orchestrator.Report { asked.Add(1); return r }})
	if err := app.withRunner(t.Context(), silent{}, func(runner *orchestrator.Runner) error {
		stop := m.keep(t.Context(), runner)
		for asked.Load() < 20 {
			if content, err := os.ReadFile(d.path("muster.prom")); err == nil {
				wantValue(t, parsedMetrics(t, string(content)), 1, "muster_run_state", "state=running")
			}
		}
		stop()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wantValue(t, d.metricsIn("muster.prom"), 1, "muster_run_state", "state=running")
}
