package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/state/journal"
)

// bars draws one bar a step on a terminal.
type bars struct {
	progress *mpb.Progress
	now      func() time.Time
	mu       sync.Mutex
	steps    map[string]*stepBar
}

func newBars(out io.Writer, now func() time.Time) *bars {
	return &bars{
		progress: mpb.New(mpb.WithOutput(out), mpb.WithWidth(20), mpb.WithAutoRefresh()),
		now:      now,
		steps:    map[string]*stepBar{},
	}
}

func (b *bars) Journaled(event journal.Event) {
	if event.Step == "" {
		return
	}
	s := b.of(event.Step)
	switch event.Type {
	case orchestrator.StepItems:
		s.expand(event)
	case orchestrator.StepVerified:
		s.finish(event.Item, "done")
	case orchestrator.StepFailed:
		s.fail("failed")
	case orchestrator.StepSkipped:
		s.finish(event.Item, "skipped")
	case orchestrator.StepRetry:
		s.say("waits to try again")
	case orchestrator.StepFinding:
		fmt.Fprintln(b.progress, eventLine(event))
	}
}

// Replayed shows what earlier processes did as done.
func (b *bars) Replayed(events []journal.Event) {
	for _, event := range events {
		switch event.Type {
		case orchestrator.StepItems, orchestrator.StepVerified, orchestrator.StepSkipped:
			b.Journaled(event)
		}
	}
}

func (b *bars) Progressed(update orchestrator.Update) { b.of(update.Step).progressed(update) }

// done leaves the bars as they are; bars of tasks that did not end are dropped from the refresh.
func (b *bars) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.steps {
		s.bar.Abort(false)
	}
	b.progress.Wait()
}

func (b *bars) of(step string) *stepBar {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.steps[step]; ok {
		return s
	}
	s := &stepBar{now: b.now, began: b.now(), tasks: map[string]orchestrator.Update{}, verified: map[string]bool{}, expected: 1, state: "runs"}
	s.bar = b.progress.AddBar(barUnits,
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-14.14s ", step))),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return s.line() }, decor.WCSyncSpaceR)))
	b.steps[step] = s
	return s
}

// barUnits is the length of every bar: a step counts items or bytes, but its bar shows a share.
const barUnits = 1000

// stepBar gathers the tasks of one step.
type stepBar struct {
	bar *mpb.Bar
	now func() time.Time

	mu       sync.Mutex
	began    time.Time
	ended    time.Time
	tasks    map[string]orchestrator.Update
	verified map[string]bool
	expected int // tasks
	fans     bool
	status   string
	state    string
}

// expand learns how many items there are.
func (s *stepBar) expand(event journal.Event) {
	var items []string
	if json.Unmarshal(event.Data, &items) != nil {
		return // the journal has it; the picture does without
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected, s.fans = max(1, len(items)), true
	s.draw()
}

func (s *stepBar) progressed(update orchestrator.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks[update.Item], s.status = update, update.Status
	s.draw()
}

func (s *stepBar) finish(item, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verified[item] = true
	s.status = ""
	if len(s.verified) == s.expected {
		s.state, s.ended = state, s.now()
	}
	s.draw()
}

func (s *stepBar) fail(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.status, s.ended = state, "", s.now()
	s.draw()
}

func (s *stepBar) say(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// draw is called with mu held.
func (s *stepBar) draw() {
	if s.bar != nil {
		s.bar.SetCurrent(int64(barUnits * s.share()))
	}
}

// share is how much of the step is done, from 0 to 1. It is called with mu held.
func (s *stepBar) share() float64 {
	done := float64(len(s.verified))
	for item, u := range s.tasks {
		if !s.verified[item] {
			done += taskShare(u)
		}
	}
	return min(1, done/float64(s.expected))
}

// taskShare counts bytes where a task announced them, else items. It never says that all is done: that
// is for the journal to say.
func taskShare(u orchestrator.Update) float64 {
	const almost = 0.99
	switch {
	case u.Total.Bytes > 0:
		return min(almost, float64(u.Done.Bytes)/float64(u.Total.Bytes))
	case u.Total.Items > 0:
		return min(almost, float64(u.Done.Items)/float64(u.Total.Items))
	}
	return 0
}

// line is what follows the bar: it fits into the rest of 80 columns.
func (s *stepBar) line() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%-41.41s", s.text())
}

// text tells tasks, amount, rate and estimate, or what the step says of itself as long as it has
// counted nothing. It is called with mu held.
func (s *stepBar) text() string {
	var sum orchestrator.Amount
	for _, u := range s.tasks {
		sum.Bytes += u.Done.Bytes
		sum.Items += u.Done.Items
	}
	text := s.state
	if s.ended.IsZero() && s.fans {
		text = fmt.Sprintf("%d/%d", len(s.verified), s.expected)
	}
	if s.ended.IsZero() && s.status != "" && sum.Bytes == 0 {
		return s.status
	}
	text += amountText(sum)
	until := s.ended
	if until.IsZero() {
		until = s.now()
	}
	elapsed := until.Sub(s.began)
	if rate := rateText(sum, elapsed); rate != "" {
		text += "  " + rate
	}
	if left, known := remaining(s.share(), elapsed); known && s.ended.IsZero() {
		text += "  " + left.Round(time.Second).String() + " left"
	}
	return text
}

// rateText is empty as long as there is too little to tell.
func rateText(done orchestrator.Amount, elapsed time.Duration) string {
	seconds := elapsed.Seconds()
	switch {
	case seconds < 0.2:
		return ""
	case done.Bytes > 0:
		return bytesText(int64(float64(done.Bytes)/seconds)) + "/s"
	case done.Items > 0:
		return fmt.Sprintf("%.0f/s", float64(done.Items)/seconds)
	}
	return ""
}

// remaining estimates from the share that is done; below a twentieth, or in the first second, nobody
// can tell.
func remaining(share float64, elapsed time.Duration) (time.Duration, bool) {
	if share < 0.05 || share >= 1 || elapsed < time.Second {
		return 0, false
	}
	return time.Duration(float64(elapsed) * (1 - share) / share), true
}
