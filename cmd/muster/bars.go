package main

import (
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
	mu       sync.Mutex
	steps    map[string]*stepBar
}

// stepBar gathers the tasks of one step.
type stepBar struct {
	bar    *mpb.Bar
	mu     sync.Mutex
	began  time.Time
	tasks  map[string]orchestrator.Update
	status string
	state  string
}

func newBars(out io.Writer) *bars {
	return &bars{
		progress: mpb.New(mpb.WithOutput(out), mpb.WithWidth(24), mpb.WithAutoRefresh()),
		steps:    map[string]*stepBar{},
	}
}

func (b *bars) Journaled(event journal.Event) {
	if event.Step == "" {
		return
	}
	s := b.of(event.Step, event.Time)
	switch event.Type {
	case orchestrator.StepVerified:
		s.finish(event.Item, "done")
	case orchestrator.StepFailed:
		s.finish(event.Item, "failed")
	case orchestrator.StepSkipped:
		s.finish(event.Item, "skipped")
	case orchestrator.StepRetry:
		s.say("waits to try again")
	case orchestrator.StepFinding:
		fmt.Fprintln(b.progress, eventLine(event))
	}
}

func (b *bars) Progressed(update orchestrator.Update) {
	b.of(update.Step, time.Time{}).progressed(update)
}

// done leaves the bars as they are; bars of tasks that did not end are dropped from the refresh.
func (b *bars) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.steps {
		s.bar.Abort(false)
	}
	b.progress.Wait()
}

func (b *bars) of(step string, at time.Time) *stepBar {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.steps[step]; ok {
		return s
	}
	s := &stepBar{began: at, tasks: map[string]orchestrator.Update{}, state: "runs"}
	s.bar = b.progress.AddBar(0,
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-14.14s ", step))),
		mpb.AppendDecorators(
			decor.Any(func(decor.Statistics) string { return s.line() }, decor.WCSyncSpaceR),
			decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO), ""),
		))
	b.steps[step] = s
	return s
}

func (s *stepBar) progressed(update orchestrator.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks[update.Item] = update
	s.status = update.Status
	done, total := s.sums()
	s.bar.SetTotal(max(total, done+1), false)
	s.bar.SetCurrent(done)
}

// sums are in bytes when any task counts bytes, in items otherwise.
func (s *stepBar) sums() (done, total int64) {
	var items, itemsTotal int64
	for _, u := range s.tasks {
		done += u.Done.Bytes
		total += u.Total.Bytes
		items += u.Done.Items
		itemsTotal += u.Total.Items
	}
	if done+total == 0 {
		return items, itemsTotal
	}
	return done, total
}

func (s *stepBar) finish(item, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.tasks[item]
	u.Total = u.Done
	s.tasks[item] = u
	s.state, s.status = state, ""
}

func (s *stepBar) say(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// line fits what follows the bar into the rest of 80 columns.
func (s *stepBar) line() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum orchestrator.Amount
	for _, u := range s.tasks {
		sum.Bytes += u.Done.Bytes
		sum.Items += u.Done.Items
	}
	text := s.state + amountText(sum)
	if s.status != "" {
		text = s.status
	}
	return fmt.Sprintf("%-36.36s", text)
}
