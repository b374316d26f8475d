package scenario

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// breakage is something that cuts the streams of a backup in pods.
type breakage struct {
	name string
	do   func(t *testing.T, s *Scenario, kill func())
}

// onMachine kills processes; it does not matter whether there are any.
func onMachine(t *testing.T, s *Scenario, pattern string) {
	t.Helper()
	if _, err := s.Lab.Exec(t.Context(), s.Members()[0], "pkill -9 '"+pattern+"' || :", nil); err != nil {
		t.Error(err)
	}
}

var breakages = []breakage{
	{"the tools are killed", func(t *testing.T, s *Scenario, _ func()) {
		t.Helper()
		onMachine(t, s, "^(pg_dump|pg_basebackup|mariadb-dump|mariadb-backup|mongodump)$")
	}},
	{"the API server is killed", func(t *testing.T, s *Scenario, _ func()) {
		t.Helper()
		onMachine(t, s, "^kube-apiserver$")
	}},
	{"muster is killed", func(_ *testing.T, _ *Scenario, kill func()) { kill() }},
}

// breaks is how often a backup is broken.
const breaks = 10

// backUpThroughBreaks backs up in each mode, broken at random moments. A run ends well, by itself or when it is
// resumed, with one recovery point that is whole; until then there is none. It returns the last point of each mode.
func (s *Scenario) backUpThroughBreaks(t *testing.T, modes map[string][]*podServer) map[string]podPoint {
	t.Helper()
	points, typical := map[string]podPoint{}, map[string]time.Duration{}
	names := slices.Sorted(maps.Keys(modes))
	for _, mode := range names {
		began := time.Now()
		must(t, s.Run(t.Context(), "back-up-"+mode, nil, "run", "back-up-"+mode))
		typical[mode] = time.Since(began)
		points[mode] = s.newestOf(t, mode, modes[mode])
	}
	for n := range breaks {
		mode, broken := names[n%len(names)], breakages[n%len(breakages)]
		at := time.Duration(rand.Float64() * float64(typical[mode]))
		what := fmt.Sprintf("%d, %s: %s after %s of %s", n, mode, broken.name, at.Round(time.Millisecond), typical[mode].Round(time.Millisecond))
		s.backUpBroken(t, what, mode, broken, at)
		points[mode] = s.newestOf(t, mode, modes[mode])
		must(t, s.Run(t.Context(), "verify", nil, "points", "verify", points[mode].ID))
	}
	return points
}

func (s *Scenario) backUpBroken(t *testing.T, what, mode string, broken breakage, at time.Duration) {
	t.Helper()
	before := s.count(t, "points", "list", "--output", "json")
	c, closeLogs, err := s.Command(t.Context(), "broken", nil, "run", "back-up-"+mode)
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
		must(t, s.Run(t.Context(), "broken", nil, "run", "back-up-"+mode))
	}
	s.resumeAny(t, "broken")
	if made := s.count(t, "points", "list", "--output", "json") - before; made != 1 {
		t.Errorf("%s: %d new points", what, made)
	}
}
