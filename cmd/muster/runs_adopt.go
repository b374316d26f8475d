package main

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
)

func (a *app) runsAdopt() *cobra.Command {
	var watch bool
	var files resultFiles
	c := &cobra.Command{
		Use: "adopt", Short: "Go on with every run whose process died; with --watch, until interrupted", Args: exactly(0),
		Long: `Adopt takes up runs that were at work when their process died or lost its lease, several at once.
Any number of processes may adopt at the same time: none takes a run that another has. With --watch it
keeps looking: run it as a service on each host that shares the state.`,
		RunE: func(c *cobra.Command, _ []string) error {
			metrics, err := newMetricsFile(files.metrics, a.now, a.log())
			if err != nil {
				return err
			}
			display := newDisplay(a)
			var mu sync.Mutex
			var problems []error
			return a.withRunner(c.Context(), observed(display, metrics.perRun()), func(r *orchestrator.Runner) error {
				defer metrics.keep(c.Context(), r)()
				err := r.Adopt(c.Context(), !watch, func(id string, report *orchestrator.Report, err error) {
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						err = fmt.Errorf("run %s: %w", id, err)
					} else if !report.Complete() {
						err = fmt.Errorf("run %s: %w", id, errIncomplete)
					}
					if watch && err != nil {
						a.log().Error("an adopted run did not end well", "error", err)
						return
					}
					problems = append(problems, err)
				})
				display.done()
				return errors.Join(append(problems, err)...)
			})
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "keep looking for such runs")
	files.registerMetrics(c)
	return c
}

func (a *app) runsPrune() *cobra.Command {
	var keep int
	var age string
	var dryRun bool
	c := &cobra.Command{
		Use: "prune", Short: "Pack the journals of ended runs, and delete old ones", Args: exactly(0),
		Example: "  muster runs prune --keep 200 --older-than 90d",
		RunE: func(c *cobra.Command, _ []string) error {
			var limit time.Duration
			if age != "" {
				parsed, err := plans.ParseDuration(age)
				if err != nil {
					return usageError(fmt.Errorf("--older-than: %w", err))
				}
				limit = time.Duration(parsed)
			}
			return a.withRunner(c.Context(), silent{}, func(r *orchestrator.Runner) error {
				deleted, err := r.Tidy(c.Context(), keep, limit, dryRun)
				if a.output == "json" {
					return errors.Join(err, printJSON(a.out, deleted))
				}
				for _, header := range deleted {
					fmt.Fprintf(a.out, "%s  %s  %s\n", header.ID, header.Plan, header.Created.Format(time.RFC3339))
				}
				return err
			})
		},
	}
	c.Flags().IntVar(&keep, "keep", 0, "delete ended runs beyond the newest N; 0 keeps all")
	c.Flags().StringVar(&age, "older-than", "", "delete ended runs that were started longer ago: 90d")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be deleted")
	return c
}
