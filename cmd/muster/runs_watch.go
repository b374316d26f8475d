package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

func (a *app) runsWatch() *cobra.Command {
	var stay bool
	c := &cobra.Command{
		Use: "watch RUN", Short: "Follow a run until it has ended or stands still", Args: exactly(1),
		Long: `Watch follows a run from any terminal and any process that shares the state. On a terminal it
draws the steps, what runs, how fast and for how long, what waits for what, and the command to type where
somebody has to decide; when the run has ended, the critical path with where the time went. Elsewhere it
writes one line an event; with -o json, events and views as JSON lines.

Ctrl-C ends the watch alone. Otherwise the exit code is the run's.`,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withRunner(c.Context(), silent{}, func(r *orchestrator.Runner) error {
				watching, last := a.watching()
				watching.Stay = stay
				view, err := r.Watch(c.Context(), args[0], watching)
				if err != nil {
					return err
				}
				return errors.Join(last(view), endOf(view.Report))
			})
		},
	}
	c.Flags().BoolVar(&stay, "stay", false, "go on when the run has ended or stands still, until interrupted")
	return c
}

// watching picks how a watch is shown, and what is written when it has ended.
func (a *app) watching() (orchestrator.Watching, func(*orchestrator.View) error) {
	out, isFile := a.out.(*os.File)
	switch {
	case a.output == "json":
		return watchJSON(json.NewEncoder(a.out))
	case isFile && term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb":
		return watchScreen(newScreen(out))
	default:
		return watchLines(a)
	}
}

// viewLine is one view as JSON: docs/formats/journal.md.
type viewLine struct {
	Type string `json:"type"`
	*orchestrator.View
}

// watchJSON writes events and, once a second, views: one JSON object a line.
func watchJSON(to *json.Encoder) (orchestrator.Watching, func(*orchestrator.View) error) {
	return orchestrator.Watching{
		Every: time.Second,
		Event: func(event journal.Event) error { return to.Encode(event) },
		View:  func(v *orchestrator.View) error { return to.Encode(viewLine{"view", v}) },
	}, func(*orchestrator.View) error { return nil } // the last view was written
}

func watchScreen(s *screen) (orchestrator.Watching, func(*orchestrator.View) error) {
	draw := func(v *orchestrator.View) error { s.draw(v); return nil }
	return orchestrator.Watching{View: draw}, func(v *orchestrator.View) error { s.last(v); return nil }
}

// watchLines writes one line an event, and the report at the end.
func watchLines(a *app) (orchestrator.Watching, func(*orchestrator.View) error) {
	line := func(event journal.Event) error {
		_, err := fmt.Fprintln(a.out, eventLine(event))
		return err
	}
	return orchestrator.Watching{Event: line}, func(v *orchestrator.View) error { return printReport(a.out, v.Report) }
}

// newScreen draws on a terminal. NO_COLOR is no-color.org's.
func newScreen(out *os.File) *screen {
	return &screen{
		out: out, color: os.Getenv("NO_COLOR") == "",
		size: func() (int, int) {
			width, height, err := term.GetSize(int(out.Fd()))
			if err != nil || width <= 0 || height <= 0 {
				return 80, 24
			}
			return width, height
		},
	}
}

// endOf is the error that stands for how a run ended: it gives a watch the run's exit code.
func endOf(r *orchestrator.Report) error {
	switch {
	case r.State == orchestrator.RunStateCompleted && r.Complete():
		return nil
	case r.State == orchestrator.RunStateCompleted:
		return errIncomplete
	case r.State == orchestrator.RunStatePaused, r.State == orchestrator.RunStateInterrupted, r.State == orchestrator.RunStatePending:
		return &orchestrator.Interrupted{Err: fault.Newf("watch run", fault.Transient, r.Run, "it is %s; go on with: muster runs resume %s", r.State, r.Run)}
	}
	kind := fault.Invalid // what was cancelled
	if r.Failure != nil {
		kind = fault.ParseKind(r.Failure.Kind)
	}
	return fault.Newf("watch run", kind, r.Run, "the run is %s", r.State)
}
