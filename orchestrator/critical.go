package orchestrator

import (
	"slices"
	"time"
)

// Pause is a time in which nobody worked on a run.
type Pause struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// goOn ends a time in which nobody worked on the run, if there was one. It is called with mu held.
func (l *ledger) goOn(at time.Time) {
	if l.started.IsZero() { // interrupted before it was started
		l.started = at
	} else if !l.ended.IsZero() {
		l.pauses = append(l.pauses, Pause{From: l.ended, To: at})
	}
	if l.resumed.IsZero() || !l.ended.IsZero() {
		l.resumed = at
	}
	l.ended = time.Time{}
}

// CriticalPath is the chain of steps that determined when a run ended: each of them is what the next one
// waited for longest. To make a run shorter, one of these has to become shorter.
//
// What all steps waited and worked, After and Paused make up Seconds.
type CriticalPath struct {
	Seconds float64        `json:"seconds"`                 // the run's, pauses included
	Steps   []CriticalStep `json:"steps"`                   // in the order of time
	After   float64        `json:"afterSeconds"`            // from the last step's end to the run's
	Paused  float64        `json:"pausedSeconds,omitempty"` // when nobody worked on the run
}

// CriticalStep is one step of a critical path. The times in which nobody worked on the run count as
// neither waited nor worked.
type CriticalStep struct {
	ID       string  `json:"id"`
	State    string  `json:"state"`
	LastItem string  `json:"lastItem,omitempty"` // which the step's end waited for
	Waited   float64 `json:"waitedSeconds"`      // since the step before it ended, or the run began
	Worked   float64 `json:"workedSeconds"`
	Paused   float64 `json:"pausedSeconds,omitempty"` // meanwhile
	// Share is what waiting and work are of the run's time without its pauses, from 0 to 1.
	Share float64 `json:"share"`
}

// criticalPath finds the path of a run that has ended, from the times and needs of its steps alone; nil
// when it has not ended, or no step has.
func criticalPath(report *Report) *CriticalPath {
	if report.Ended.IsZero() || report.Started.IsZero() {
		return nil
	}
	c := newChain(report.Steps)
	chain := c.backwards()
	if len(chain) == 0 {
		return nil
	}
	slices.Reverse(chain)
	path := &CriticalPath{Seconds: report.Ended.Sub(report.Started).Seconds()}
	path.Paused = idle(report.Pauses, report.Started, report.Ended)
	active := path.Seconds - path.Paused
	from := report.Started
	for _, i := range chain {
		s := report.Steps[i]
		waited, worked := idle(report.Pauses, from, s.Started), idle(report.Pauses, s.Started, s.Ended)
		step := CriticalStep{ID: s.ID, State: s.State, LastItem: s.LastItem, Paused: waited + worked}
		step.Waited = max(0, s.Started.Sub(from).Seconds()) - waited
		step.Worked = s.Ended.Sub(s.Started).Seconds() - worked
		step.Share = share(step.Waited+step.Worked, active)
		path.Steps = append(path.Steps, step)
		from = s.Ended
	}
	path.After = max(0, report.Ended.Sub(from).Seconds()-idle(report.Pauses, from, report.Ended))
	return path
}

func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}

// idle is how much of the time between two moments the pauses cover, in seconds.
func idle(pauses []Pause, from, to time.Time) float64 {
	covered := 0.0
	for _, p := range pauses {
		begin, end := p.From, p.To
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		covered += max(0, end.Sub(begin).Seconds())
	}
	return covered
}

// chain walks the steps of a report against their needs.
type chain struct {
	steps []StepReport
	index map[string]int
	depth []int // the longest way to a step without needs; 0 when not known yet
}

func newChain(steps []StepReport) *chain {
	c := &chain{steps: steps, index: make(map[string]int, len(steps)), depth: make([]int, len(steps))}
	for i, s := range steps {
		c.index[s.ID] = i
	}
	for i := range steps {
		c.deepen(i)
	}
	return c
}

// deepen finds a step's depth. Plans hold no cycles.
func (c *chain) deepen(i int) int {
	if c.depth[i] > 0 {
		return c.depth[i]
	}
	deepest := 0
	for _, need := range c.needs(i) {
		deepest = max(deepest, c.deepen(need))
	}
	c.depth[i] = deepest + 1
	return c.depth[i]
}

func (c *chain) needs(i int) []int {
	var out []int
	for _, id := range c.steps[i].Needs {
		if n, known := c.index[id]; known {
			out = append(out, n)
		}
	}
	return out
}

// backwards lists the steps that worked, from the one that ended last to the one that began first. Those
// that were left out have an end but no work: the path goes through them.
func (c *chain) backwards() []int {
	all := make([]int, len(c.steps))
	for i := range all {
		all[i] = i
	}
	var out []int
	for at := c.last(all); at >= 0; at = c.last(c.needs(at)) {
		if !c.steps[at].Started.IsZero() {
			out = append(out, at)
		}
	}
	return out
}

// last is the one that ended last, -1 when none has. Of several it is the one that began last, then the
// one that most others come before, then the first in the plan.
func (c *chain) last(of []int) int {
	found := -1
	for _, i := range of {
		if !c.steps[i].Ended.IsZero() && (found < 0 || c.later(i, found)) {
			found = i
		}
	}
	return found
}

func (c *chain) later(i, than int) bool {
	a, b := c.steps[i], c.steps[than]
	switch {
	case !a.Ended.Equal(b.Ended):
		return a.Ended.After(b.Ended)
	case !a.Started.Equal(b.Started):
		return a.Started.After(b.Started)
	case c.depth[i] != c.depth[than]:
		return c.depth[i] > c.depth[than]
	}
	return i < than
}
