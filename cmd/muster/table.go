package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/musterdr/muster/orchestrator"
)

// printReport writes a run's report: steps, layers, what did not come back, and the verdict.
func printReport(out io.Writer, report *orchestrator.Report) error {
	fmt.Fprintf(out, "\nRun %s  plan %s  %s\n", report.Run, report.Plan, report.State)
	if report.Point != "" {
		fmt.Fprintf(out, "Recovery point %s of %s\n", report.Point, report.Instant.Format(time.RFC3339))
	}
	fmt.Fprintln(out)
	if err := printSteps(out, report.Steps); err != nil {
		return err
	}
	if len(report.Layers) > 0 {
		fmt.Fprintln(out)
		if err := printLayers(out, report.Layers); err != nil {
			return err
		}
	}
	printFindings(out, report.Findings)
	if report.Failure != nil && report.Failure.Error != "" {
		fmt.Fprintf(out, "\nEnded by: %s\n", report.Failure.Error)
	}
	if report.Critical != nil {
		fmt.Fprintln(out, "\n"+strings.Join(criticalLines(report.Critical, 80), "\n"))
	}
	if report.Verdict != "" {
		fmt.Fprintf(out, "\nRPO %s   RTO %s   verdict: %s\n", secondsText(report.RPOSeconds), secondsText(report.RTOSeconds), report.Verdict)
	}
	return nil
}

func printSteps(out io.Writer, steps []orchestrator.StepReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STEP\tSTATE\tTASKS\tTIME\tAMOUNT")
	for _, s := range steps {
		fmt.Fprintf(w, "%s\t%s\t%d/%d\t%s\t%s\n", s.ID, s.State, s.Verified, s.Tasks,
			secondsText(s.Seconds), strings.TrimSpace(amountText(s.Done)))
	}
	return w.Flush()
}

func printLayers(out io.Writer, layers []orchestrator.Summary) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LAYER\tDONE\tOF\tUNIT\tSIZE\tDIGEST\tNOTE")
	for _, l := range layers {
		size := ""
		if l.Bytes > 0 {
			size = bytesText(l.Bytes)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%.12s\t%s\n", l.Layer, l.Done, l.Expected, l.Unit, size, l.Digest, l.Text)
	}
	return w.Flush()
}

func printFindings(out io.Writer, findings []orchestrator.Finding) {
	for _, severity := range []orchestrator.Severity{orchestrator.Lost, orchestrator.Changed, orchestrator.Info} {
		heading := map[orchestrator.Severity]string{
			orchestrator.Lost:    "Did not come back:",
			orchestrator.Changed: "Came back changed:",
			orchestrator.Info:    "To know:",
		}[severity]
		for _, f := range findings {
			if f.Severity != severity {
				continue
			}
			if heading != "" {
				fmt.Fprintf(out, "\n%s\n", heading)
				heading = ""
			}
			fmt.Fprintf(out, "  %s: %s: %s\n", f.Layer, printable(f.Subject), printable(f.Text))
		}
	}
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func secondsText(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
}
