package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/state/journal"
)

// display is an observer that can be ended: what it draws is complete when done returns.
type display interface {
	orchestrator.Observer
	done()
}

// newDisplay picks how a run is shown: events as JSON lines, bars on a terminal, or one line an
// event. Bars and lines go to standard error, so that standard output holds the result alone.
func newDisplay(a *app) display {
	switch {
	case a.output == "json":
		return &jsonLines{encoder: json.NewEncoder(a.out)}
	case term.IsTerminal(int(a.diagnostics.Fd())):
		return newBars(a.diagnostics, a.now)
	default:
		return &textLines{out: a.diagnostics}
	}
}

// jsonLines writes every event and update as one JSON object a line: docs/formats/journal.md.
type jsonLines struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func (j *jsonLines) Journaled(event journal.Event) { j.write(event) }

// Replayed writes nothing: whoever reads has these lines from before.
func (j *jsonLines) Replayed([]journal.Event) {}

func (j *jsonLines) Progressed(update orchestrator.Update) {
	j.write(struct {
		Type string `json:"type"`
		orchestrator.Update
	}{"progress", update})
}

// write drops what can't be written: nobody reads any more, and the journal has the events.
func (j *jsonLines) write(value any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.encoder.Encode(value)
}

func (j *jsonLines) done() {}

// textLines writes one line an event.
type textLines struct {
	mu  sync.Mutex
	out io.Writer
}

func (t *textLines) Journaled(event journal.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintln(t.out, eventLine(event))
}

// Replayed writes nothing: `muster runs show` tells what was.
func (t *textLines) Replayed([]journal.Event) {}

func (t *textLines) Progressed(orchestrator.Update) {}

func (t *textLines) done() {}

// eventLine tells an event in one line.
func eventLine(event journal.Event) string {
	where := event.Step
	if event.Item != "" {
		where += "/" + event.Item
	}
	line := fmt.Sprintf("%s  %-16s %s", event.Time.Format(time.TimeOnly), event.Type, where)
	switch event.Type {
	case orchestrator.StepDecided, orchestrator.RunPausing, orchestrator.RunCancelling, orchestrator.CommandRefused:
		line += commandText(event.Data)
	case orchestrator.StepFailed, orchestrator.StepRetry, orchestrator.StepUndoFailed,
		orchestrator.RunFailed, orchestrator.RunInterrupted, orchestrator.RunCancelled, orchestrator.RunPaused, orchestrator.RunUndoing, orchestrator.RunUndoFailed:
		var failure orchestrator.Failure
		if json.Unmarshal(event.Data, &failure) == nil && failure.Error != "" {
			line += ": " + failure.Error
		}
	case orchestrator.StepFinding:
		var finding orchestrator.Finding
		if json.Unmarshal(event.Data, &finding) == nil {
			line += printable(fmt.Sprintf(": %s: %s: %s", finding.Severity, finding.Subject, finding.Text))
		}
	case orchestrator.StepVerified:
		var amount orchestrator.Amount
		if json.Unmarshal(event.Data, &amount) == nil {
			line += amountText(amount)
		}
	}
	return line
}

// commandText tells what an operator asked, and why it was refused if it was.
func commandText(data json.RawMessage) string {
	var command struct {
		journal.Command
		Error string `json:"error"`
	}
	if json.Unmarshal(data, &command) != nil {
		return ""
	}
	text := ": " + command.Verb + " by " + command.By
	if command.As != "" {
		text += " as " + command.As
	}
	if command.Reason != "" {
		text += ": " + command.Reason
	}
	if command.Error != "" {
		text += ": refused: " + command.Error
	}
	return text
}

func amountText(a orchestrator.Amount) string {
	text := ""
	if a.Items > 0 {
		text += fmt.Sprintf("  %d items", a.Items)
	}
	if a.Bytes > 0 {
		text += "  " + bytesText(a.Bytes)
	}
	return text
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffix := float64(n)/unit, 0
	for value >= unit && suffix < 4 {
		value /= unit
		suffix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[suffix])
}

// silent observes nothing: for verbs that run no steps.
type silent struct{}

func (silent) Journaled(journal.Event)        {}
func (silent) Replayed([]journal.Event)       {}
func (silent) Progressed(orchestrator.Update) {}
