package orchestrator

import (
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/journal"
)

// RunInfo says which run an observer is told of.
type RunInfo struct {
	Header journal.Header // without its frozen content
	Steps  []plans.Step
	// Report tells how the run stands now, from memory. It may be called at any time.
	Report func() *Report
}

// Observers is an Observer that tells others. A process may work on several runs: PerRun makes, for each
// of them and before its first event, observers that are told of no other.
type Observers struct {
	All    []Observer
	PerRun []func(RunInfo) Observer
}

// Journaled tells all.
func (o Observers) Journaled(event journal.Event) {
	for _, observer := range o.All {
		observer.Journaled(event)
	}
}

// Replayed tells all.
func (o Observers) Replayed(events []journal.Event) {
	for _, observer := range o.All {
		observer.Replayed(events)
	}
}

// Progressed tells all.
func (o Observers) Progressed(update Update) {
	for _, observer := range o.All {
		observer.Progressed(update)
	}
}

// of is what one run tells.
func (o Observers) of(run RunInfo) Observer {
	all := append([]Observer{}, o.All...)
	for _, make := range o.PerRun {
		all = append(all, make(run))
	}
	return Observers{All: all}
}

// told is the observer of this run alone.
func (x *execution) told() Observer {
	x.observing.Do(func() {
		x.observer = x.Observer
		if several, ok := x.Observer.(Observers); ok {
			header := x.header
			header.Frozen = nil
			x.observer = several.of(RunInfo{Header: header, Steps: x.plan.Plan.Spec.Steps, Report: x.report})
		}
	})
	return x.observer
}
