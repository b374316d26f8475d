package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
)

// metricsEvery is how often the file of metrics is written while runs are at work.
const metricsEvery = 15 * time.Second

func (a *app) runsMetrics() *cobra.Command {
	return &cobra.Command{
		Use: "metrics", Short: "Print the newest run of each plan as Prometheus metrics", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withRunner(c.Context(), silent{}, func(r *orchestrator.Runner) error {
				runs, err := r.PlanRuns(c.Context())
				if err != nil {
					return err
				}
				families, err := metricsOf(runs, a.now()).Gather()
				if err != nil {
					return fault.New("collect metrics", fault.Internal, "", err)
				}
				for _, family := range families {
					if _, err := expfmt.MetricFamilyToText(a.out, family); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func metricsOf(runs []orchestrator.PlanRuns, now time.Time) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(orchestrator.Metrics{Runs: runs, Now: now}) // the only one: it can't clash
	return registry
}

// metricsFile keeps a file of metrics for node_exporter's textfile collector. A nil one does nothing.
type metricsFile struct {
	path  string
	every time.Duration
	now   func() time.Time
	warn  *slog.Logger

	mu        sync.Mutex
	runs      map[planOn]orchestrator.RunInfo // the newest of each
	succeeded map[planOn]time.Time            // before that
	warned    bool
}

// planOn is a plan on a cluster.
type planOn struct{ plan, cluster string }

// newMetricsFile makes sure that the file can be written before anything runs. Without a path it is nil.
func newMetricsFile(path string, now func() time.Time, warn *slog.Logger) (*metricsFile, error) {
	if path == "" {
		return nil, nil
	}
	probe, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		kind := fault.Denied
		if errors.Is(err, fs.ErrNotExist) {
			kind = fault.NotFound
		}
		return nil, fault.New("write metrics", kind, path, err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fault.New("write metrics", fault.Internal, path, err)
	}
	return &metricsFile{
		path: path, every: metricsEvery, now: now, warn: warn, runs: map[planOn]orchestrator.RunInfo{}, succeeded: map[planOn]time.Time{},
	}, nil
}

// perRun is what makes the observer of a run: it only learns that there is one.
func (m *metricsFile) perRun() []func(orchestrator.RunInfo) orchestrator.Observer {
	if m == nil {
		return nil
	}
	return []func(orchestrator.RunInfo) orchestrator.Observer{func(run orchestrator.RunInfo) orchestrator.Observer {
		m.mu.Lock()
		defer m.mu.Unlock()
		key := planOn{run.Header.Plan, run.Header.Cluster}
		if before, known := m.runs[key]; !known || !run.Header.Created.Before(before.Header.Created) {
			m.runs[key] = run
		}
		return silent{}
	}}
}

// keep writes the file now and then, until the returned function is called, which writes it once more.
func (m *metricsFile) keep(ctx context.Context, r *orchestrator.Runner) (stop func()) {
	if m == nil {
		return func() {}
	}
	ended := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(m.every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				m.write(ctx, r)
			case <-ended:
				return
			}
		}
	})
	return func() {
		close(ended)
		done.Wait()
		m.write(context.WithoutCancel(ctx), r)
	}
}

// write replaces the file in one step. A run does not end because its metrics can't be written.
func (m *metricsFile) write(ctx context.Context, r *orchestrator.Runner) {
	runs, err := m.current(ctx, r)
	if len(runs) > 0 {
		err = errors.Join(err, prometheus.WriteToTextfile(m.path, metricsOf(runs, m.now())))
	}
	if err != nil && !m.warned {
		m.warned = true
		m.warn.Warn("metrics are not written; nothing more is said of it", "file", m.path, "error", err)
	}
}

func (m *metricsFile) current(ctx context.Context, r *orchestrator.Runner) ([]orchestrator.PlanRuns, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var runs []orchestrator.PlanRuns
	var problems []error
	for key, run := range m.runs {
		before, known := m.succeeded[key]
		if !known {
			limited, cancel := context.WithTimeout(ctx, metricsEvery)
			found, err := r.LastSuccess(limited, key.plan, key.cluster)
			cancel()
			problems = append(problems, err)
			if err == nil {
				m.succeeded[key], before = found, found
			}
		}
		report := run.Report()
		if report.State == orchestrator.RunStatePending {
			continue // a check refused it: it never was a run
		}
		if report.Complete() {
			before = report.Ended
		}
		runs = append(runs, orchestrator.PlanRuns{Newest: report, Succeeded: before})
	}
	return runs, errors.Join(problems...)
}
