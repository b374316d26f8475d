package orchestrator

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterdr/muster/state/journal"
)

// at is so many seconds after the run began.
func at(seconds float64) time.Time {
	return time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

// worked is a step that began and ended at these seconds.
func worked(id string, from, to float64, needs ...string) StepReport {
	return StepReport{ID: id, State: TaskVerified, Needs: needs, Started: at(from), Ended: at(to)}
}

func skipped(id string, when float64, needs ...string) StepReport {
	return StepReport{ID: id, State: TaskSkipped, Needs: needs, Ended: at(when)}
}

func pause(from, to float64) Pause { return Pause{From: at(from), To: at(to)} }

func pathText(p *CriticalPath) string {
	if p == nil {
		return "none"
	}
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s %g+%g", s.ID, s.Waited, s.Worked)
		if s.Paused > 0 {
			fmt.Fprintf(&b, " paused %g", s.Paused)
		}
		fmt.Fprintf(&b, " %.0f%%, ", s.Share*100)
	}
	fmt.Fprintf(&b, "after %g of %g", p.After, p.Seconds)
	return b.String()
}

func TestCriticalPath(t *testing.T) {
	for name, c := range map[string]struct {
		end    float64
		steps  []StepReport
		pauses []Pause
		want   string
	}{
		"no steps":  {end: 1, want: "none"},
		"none done": {end: 1, steps: []StepReport{{ID: "a", State: TaskBlocked}}, want: "none"},
		"one":       {end: 10, steps: []StepReport{worked("a", 1, 9)}, want: "a 1+8 90%, after 1 of 10"},
		"the longer of two branches": {end: 20, steps: []StepReport{
			worked("seal", 15, 20, "quick", "slow"), worked("quick", 0, 3), worked("slow", 0, 14),
		}, want: "slow 0+14 70%, seal 1+5 30%, after 0 of 20"},
		"a step that waited for a free place": {end: 20, steps: []StepReport{
			worked("a", 0, 2), worked("b", 12, 20, "a"),
		}, want: "a 0+2 10%, b 10+8 90%, after 0 of 20"},
		"the end was not the plan's last step": {end: 9, steps: []StepReport{
			worked("a", 0, 9), worked("b", 0, 1), worked("c", 1, 2, "b"),
		}, want: "a 0+9 100%, after 0 of 9"},
		"ties: the first in the plan": {end: 5, steps: []StepReport{
			worked("end", 4, 5, "b", "a"), worked("a", 0, 4), worked("b", 0, 4),
		}, want: "a 0+4 80%, end 0+1 20%, after 0 of 5"},
		"ties: what takes no time comes after what it needs": {end: 4, steps: []StepReport{
			worked("z", 4, 4, "y"), worked("y", 4, 4, "x"), worked("x", 0, 4),
		}, want: "x 0+4 100%, y 0+0 0%, z 0+0 0%, after 0 of 4"},
		"a step that a condition left out": {end: 8, steps: []StepReport{
			worked("a", 0, 3), skipped("left-out", 3, "a"), worked("c", 3, 8, "left-out"),
		}, want: "a 0+3 38%, c 0+5 62%, after 0 of 8"},
		"a step that an operator left out after a while": {end: 8, steps: []StepReport{
			worked("a", 0, 3), skipped("left-out", 6, "a"), worked("c", 6, 8, "left-out"),
		}, want: "a 0+3 38%, c 3+2 62%, after 0 of 8"},
		"nothing but steps that were left out": {end: 1, steps: []StepReport{skipped("a", 1)}, want: "none"},
		"failed, with a step that is blocked": {end: 6, steps: []StepReport{
			{ID: "a", State: TaskFailed, Started: at(1), Ended: at(5)}, {ID: "b", State: TaskBlocked, Needs: []string{"a"}},
		}, want: "a 1+4 83%, after 1 of 6"},
		"a pause while nothing ran": {end: 110, pauses: []Pause{pause(5, 105)}, steps: []StepReport{
			worked("a", 0, 5), worked("b", 105, 110, "a"),
		}, want: "a 0+5 50%, b 0+5 paused 100 50%, after 0 of 110"},
		"a pause in the middle of a step, and one after it": {end: 60, pauses: []Pause{pause(5, 25), pause(40, 50)}, steps: []StepReport{
			worked("a", 0, 35),
		}, want: "a 0+15 paused 20 50%, after 15 of 60"},
		"a need that is not in the plan": {end: 2, steps: []StepReport{worked("a", 0, 2, "no-such")}, want: "a 0+2 100%, after 0 of 2"},
	} {
		got := pathText(criticalPath(&Report{Started: at(0), Ended: at(c.end), Steps: c.steps, Pauses: c.pauses}))
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
	if p := criticalPath(&Report{Started: at(0), Steps: []StepReport{worked("a", 0, 1)}}); p != nil {
		t.Errorf("a run that has not ended has a path: %v", p)
	}
}

// TestCriticalPathAddsUp draws runs in which each step begins when its needs have ended, or later: the
// path's times make up the run's, and its end is the last one.
func TestCriticalPathAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps, last := drawSteps(t)
		report := &Report{Started: at(0), Ended: at(last + rapid.Float64Range(0, 5).Draw(t, "after")), Steps: steps}
		from := 0.0
		for range rapid.IntRange(0, 3).Draw(t, "pauses") {
			from += rapid.Float64Range(0, 3).Draw(t, "until")
			to := from + rapid.Float64Range(0, 3).Draw(t, "pause")
			report.Pauses = append(report.Pauses, pause(from, min(to, report.Ended.Sub(at(0)).Seconds())))
			from = to
		}
		path := criticalPath(report)
		sum, shares := path.After+path.Paused, 0.0
		for _, s := range path.Steps {
			sum += s.Waited + s.Worked
			shares += s.Share
		}
		if math.Abs(sum-path.Seconds) > 1e-6 {
			t.Fatalf("the parts are %g, the run took %g: %s", sum, path.Seconds, pathText(path))
		}
		if shares > 1+1e-6 {
			t.Fatalf("shares of %g: %s", shares, pathText(path))
		}
	})
}

func drawSteps(t *rapid.T) (steps []StepReport, last float64) {
	ends := map[string]float64{}
	for i := range rapid.IntRange(1, 8).Draw(t, "steps") {
		id, begin := fmt.Sprintf("s%d", i), 0.0
		var needs []string
		for j := range i {
			if rapid.Bool().Draw(t, "needs") {
				needs = append(needs, fmt.Sprintf("s%d", j))
				begin = max(begin, ends[fmt.Sprintf("s%d", j)])
			}
		}
		begin += float64(rapid.IntRange(0, 2).Draw(t, "waits"))
		ends[id] = begin + float64(rapid.IntRange(0, 4).Draw(t, "works"))
		steps = append(steps, worked(id, begin, ends[id], needs...))
		last = max(last, ends[id])
	}
	return steps, last
}

// TestPausesAreNoWork follows a run that fails, is undone much later, and tried again after that.
func TestPausesAreNoWork(t *testing.T) {
	r, w := newRunner(t)
	x, err := r.prepare(t.Context(), request(t, w, "id: one, uses: touch"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []journal.Event{
		{Type: RunStarted, Time: at(0)}, {Type: StepIntent, Step: "one", Time: at(1)}, {Type: StepFailed, Step: "one", Time: at(9)},
		{Type: RunFailed, Time: at(10)}, {Type: RunUndoing, Time: at(110)}, {Type: RunUndoFailed, Time: at(115)}, {Type: RunUndoing, Time: at(215)}, {Type: RunUndone, Time: at(216)},
	} {
		if err := x.ledger.replay([]journal.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	report := x.report()
	if report.Seconds != 216 || report.Working != 16 || len(report.Pauses) != 2 || report.Critical.After != 7 || report.Critical.Paused != 200 {
		t.Errorf("%g s, worked %g s, pauses %v, %s", report.Seconds, report.Working, report.Pauses, pathText(report.Critical))
	}
}
