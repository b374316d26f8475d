package scenario

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// breakage is something that cuts the streams of a backup in pods.
type breakage struct {
	name string
	do   func(t *testing.T, s *Scenario, kill func())
}

// onMachine kills processes; it does not matter whether there are any.
func onMachine(t *testing.T, s *Scenario, which string) {
	t.Helper()
	if _, err := s.Lab.Exec(t.Context(), s.Members()[0], "pkill -9 "+which+" || :", nil); err != nil {
		t.Error(err)
	}
}

var breakages = []breakage{
	{"the tools are killed", func(t *testing.T, s *Scenario, _ func()) {
		t.Helper()
		onMachine(t, s, "'^(pg_dump|pg_basebackup|mariadb-dump|mariadb-backup|mongodump|tar)$'")
		onMachine(t, s, "-f '^curl -q '") // those of writers and probes have other arguments
	}},
	{"the API server is killed", func(t *testing.T, s *Scenario, _ func()) {
		t.Helper()
		onMachine(t, s, "'^kube-apiserver$'")
	}},
	{"muster is killed", func(_ *testing.T, _ *Scenario, kill func()) { kill() }},
}

// backUpThroughBreaks backs up each group, and the first ones then again, broken at random moments. A run ends well, by
// itself or when it is resumed, with one recovery point that is whole; until then there is none. It returns each group's
// last point.
func (s *Scenario) backUpThroughBreaks(t *testing.T, groups []podGroup, first int) map[string]podPoint {
	t.Helper()
	points, typical := map[string]podPoint{}, map[string]time.Duration{}
	for _, g := range groups {
		began := time.Now()
		must(t, s.Run(t.Context(), "back-up-"+g.name, nil, "run", "back-up-"+g.name))
		typical[g.name] = time.Since(began)
		points[g.name] = s.newestOf(t, g)
	}
	for n := range first * len(breakages) { // each is broken in each way
		g, broken := groups[n%first], breakages[(n%first+n/first)%len(breakages)]
		at := time.Duration(rand.Float64() * float64(typical[g.name]))
		what := fmt.Sprintf("%d, %s: %s after %s of %s", n, g.name, broken.name, at.Round(time.Millisecond), typical[g.name].Round(time.Millisecond))
		s.backUpBroken(t, what, g.name, broken, at)
		points[g.name] = s.newestOf(t, g)
		must(t, s.Run(t.Context(), "verify", nil, "points", "verify", points[g.name].ID))
	}
	return points
}

func (s *Scenario) backUpBroken(t *testing.T, what, group string, broken breakage, at time.Duration) {
	t.Helper()
	before := s.count(t, "points", "list", "--output", "json")
	c, closeLogs, err := s.Command(t.Context(), "broken", nil, "run", "back-up-"+group)
	must(t, err)
	defer closeLogs()
	must(t, c.Start())
	timer := time.AfterFunc(at, func() { broken.do(t, s, func() { _ = c.Process.Kill() }) }) // it may have ended
	ended := c.Wait()
	timer.Stop()
	s.awaitReady(t)
	open := s.openRuns(t)
	t.Logf("%s: %v, %d to resume", what, ended, len(open))
	if made := s.count(t, "points", "list", "--output", "json") - before; made > 1 || made == 0 && ended == nil {
		t.Errorf("%s: it ended with %v and %d new points", what, ended, made)
	} else if made == 0 && len(open) == 0 { // it had not begun
		must(t, s.Run(t.Context(), "broken", nil, "run", "back-up-"+group))
	}
	s.resumeAny(t, "broken")
	if made := s.count(t, "points", "list", "--output", "json") - before; made != 1 {
		t.Errorf("%s: %d new points", what, made)
	}
}
