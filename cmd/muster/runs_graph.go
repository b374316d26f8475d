package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
)

func (a *app) runsGraph() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "graph RUN", Short: "Draw a run's steps, what they need and how they stand", Args: exactly(1),
		Example: "  muster runs graph nightly-2026 --format svg > nightly.svg",
		RunE: func(c *cobra.Command, args []string) error {
			return a.withRunner(c.Context(), silent{}, func(r *orchestrator.Runner) error {
				graph, report, err := r.Graph(c.Context(), args[0])
				if err != nil {
					return err
				}
				return a.drawGraph(format, a.runDrawing(graph, report))
			})
		},
	}
	formatFlag(c, &format)
	return c
}

func formatFlag(c *cobra.Command, format *string) {
	c.Flags().StringVar(format, "format", "text", "text, dot (Graphviz) or svg")
	c.PreRunE = func(*cobra.Command, []string) error { return oneOf("--format", *format, "text", "dot", "svg") }
}

func (a *app) drawGraph(format string, d plans.Drawing) error {
	switch format {
	case "svg":
		return d.SVG(a.out)
	case "dot":
		return d.DOT(a.out)
	}
	return d.Text(a.out)
}

func planDrawing(checked *plans.Checked) plans.Drawing {
	spec := checked.Plan.Spec
	return plans.Drawing{
		Graph: checked.Graph, Title: "Plan " + checked.Plan.Metadata.Name,
		Note: fmt.Sprintf("%s, %d steps", spec.Purpose, len(spec.Steps)),
	}
}

// runDrawing draws a run as it stands now.
func (a *app) runDrawing(graph *plans.Graph, report *orchestrator.Report) plans.Drawing {
	d := plans.Drawing{Graph: graph, Title: "Run " + report.Run, Note: "plan " + report.Plan + ", " + report.State, Marks: map[string]plans.Mark{}}
	switch {
	case !report.Ended.IsZero():
		d.Note += " after " + durationText(seconds(report.Seconds))
	case !report.Started.IsZero():
		d.Note += " for " + durationText(a.now().Sub(report.Started))
	}
	for _, s := range report.Steps {
		d.Marks[s.ID] = plans.Mark{State: s.State, Note: a.stepNote(s)}
	}
	if report.Critical != nil {
		for _, s := range report.Critical.Steps {
			d.Path = append(d.Path, s.ID)
		}
	}
	return d
}

// stepNote tells how long a step took so far, and how many of its items are done.
func (a *app) stepNote(s orchestrator.StepReport) string {
	took := ""
	switch {
	case s.Started.IsZero():
	case s.Ended.IsZero():
		took = durationText(a.now().Sub(s.Started))
	default:
		took = durationText(seconds(s.Seconds))
	}
	if isFan(s, nil) && s.Tasks > 0 {
		took = parts(took, fmt.Sprintf("%d/%d", s.Verified, s.Tasks))
	}
	return took
}
