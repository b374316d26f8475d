package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
)

func (a *app) runsCommand() *cobra.Command {
	command := group("runs", "List, show, resume and control runs")
	command.AddCommand(a.runsList(), a.runsShow(), a.runsWatch(), a.runsGraph(), a.runsMetrics(), a.runsResume(), a.runsAdopt(), a.runsPrune(),
		a.runsPause(), a.runsCancel(), a.runsRetry(), a.runsSkip(),
		a.runsDecide(orchestrator.VerbApprove, "Approve a step that waits for a decision"),
		a.runsDecide(orchestrator.VerbReject, "Reject a step that waits for a decision"))
	return command
}

func (a *app) runsList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List runs, newest first", Args: exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withRunner(command.Context(), silent{}, func(r *orchestrator.Runner) error {
				runs, err := r.Runs(command.Context())
				if err != nil {
					return err
				}
				if a.output == "json" {
					return printJSON(a.out, runs)
				}
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "RUN\tPLAN\tCLUSTER\tSTATE\tSTARTED\tTIME")
				for _, run := range runs {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", run.Run, run.Plan, run.Cluster, run.State,
						run.Started.Format(time.RFC3339), secondsText(run.Seconds))
				}
				return w.Flush()
			})
		},
	}
}

func (a *app) runsShow() *cobra.Command {
	return &cobra.Command{
		Use: "show RUN", Short: "Show how a run stands", Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withRunner(command.Context(), silent{}, func(r *orchestrator.Runner) error {
				report, err := r.Report(command.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printRun(report)
			})
		},
	}
}

func (a *app) runsResume() *cobra.Command {
	var files resultFiles
	command := &cobra.Command{
		Use: "resume RUN", Short: "Go on with a run that was interrupted, failed, or whose process died",
		Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.watched(command.Context(), files, func(ctx context.Context, r *orchestrator.Runner) (*orchestrator.Report, error) {
				return r.Resume(ctx, args[0])
			})
		},
	}
	files.register(command)
	return command
}

// resultFiles are files that a command which runs something writes beside its output.
type resultFiles struct{ report, metrics string }

func (f *resultFiles) register(command *cobra.Command) {
	command.Flags().StringVar(&f.report, "report", "", "also write the final report to this file, as JSON")
	f.registerMetrics(command)
}

func (f *resultFiles) registerMetrics(command *cobra.Command) {
	command.Flags().StringVar(&f.metrics, "metrics-file", "", "keep Prometheus metrics in this file, for node_exporter: DIR/muster.prom")
}

// watched runs work with a live display, prints the report that it ends with, and writes the files that
// are named.
func (a *app) watched(ctx context.Context, files resultFiles, work func(context.Context, *orchestrator.Runner) (*orchestrator.Report, error)) error {
	metrics, err := newMetricsFile(files.metrics, a.now, a.log())
	if err != nil {
		return err
	}
	display := newDisplay(a)
	return a.withRunner(ctx, observed(display, metrics.perRun()), func(r *orchestrator.Runner) error {
		stop := metrics.keep(ctx, r)
		report, err := work(ctx, r)
		display.done()
		stop()
		if report == nil {
			return err
		}
		if printed := errors.Join(a.printRun(report), writeReport(files.report, report)); printed != nil {
			return errors.Join(err, printed)
		}
		if err == nil && !report.Complete() {
			return errIncomplete
		}
		return err
	})
}

func writeReport(path string, report *orchestrator.Report) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return fault.New("write report", fault.Denied, path, err)
	}
	return errors.Join(printJSON(f, report), f.Close())
}

func (a *app) printRun(report *orchestrator.Report) error {
	if a.output == "json" {
		return printJSON(a.out, report)
	}
	return printReport(a.out, report)
}
