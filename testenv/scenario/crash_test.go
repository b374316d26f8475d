//go:build crashpoints

package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/musterdr/muster/state/crashpoint"
	"github.com/musterdr/muster/testenv"
)

// doOfSeal is where a capture of one machine has made its recovery point, and has no receipt of it.
const doOfSeal = "step.after-do:4"

// deaths counts, for each crash point, the plans in which muster died there.
type deaths map[string]map[string]int

func (d deaths) add(point, plan string) {
	if d[point] == nil {
		d[point] = map[string]int{}
	}
	d[point][plan]++
}

// TestCrashPoints kills muster at every crash point of every built-in plan, on a real cluster: early in
// the run, and later; and while a capture is undone that died when it had sealed its point. Each time
// another process goes on, and the world is as if nothing had happened. It takes most of half an hour, so
// `make crash` alone is built with it.
func TestCrashPoints(t *testing.T) {
	s := play(t, testenv.Config{Name: "crash", ControlPlanes: 1})
	muster := filepath.Join(t.TempDir(), "muster")
	if out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", muster, "../../cmd/muster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.config.Muster = muster
	died, members := deaths{}, s.Members() // as long as they are a cluster
	for _, point := range crashpoint.Names() {
		for _, n := range timesOf(point) {
			s.lifeAndDeath(t, died, members, point, n)
		}
	}
	for _, point := range crashpoint.Names() {
		for _, n := range []int{1, 4} {
			s.undoCapture(t, died, point, n)
		}
	}
	pairs, all := 0, 0
	for _, point := range crashpoint.Names() {
		if len(died[point]) == 0 {
			t.Errorf("no plan comes to %s", point)
		}
		pairs += len(died[point])
		for _, n := range died[point] {
			all += n
		}
	}
	t.Logf("%d points, %d pairs of a point and a plan, %d deaths", len(crashpoint.Names()), pairs, all)
}

// timesOf is how often a run that is not undone passes a point before it dies there.
func timesOf(point string) []int {
	switch {
	case strings.HasPrefix(point, "undo."):
		return nil
	case strings.HasSuffix(point, "-archive"): // a run is packed once
		return []int{1}
	}
	return []int{1, 7}
}

// lifeAndDeath captures the cluster, loses it, brings it back and replays into it; muster dies in each of
// the three at the n-th pass of a point, if it comes there.
func (s *Scenario) lifeAndDeath(t *testing.T, died deaths, members []string, point string, n int) {
	t.Helper()
	at := fmt.Sprintf("%s:%d", point, n)
	s.say("dying at %s", at)
	must(t, s.StartWriter(t.Context()))
	if s.dieAt(t, at, "capture", "run", "capture") {
		died.add(point, "capture")
		s.resumeAny(t, "capture")
	}
	must(t, s.EndCapture(t.Context()))
	must(t, s.Run(t.Context(), "verify", nil, "points", "verify", s.Point))

	must(t, s.Destroy(t.Context()))
	must(t, s.Blank(t.Context(), members))
	args, err := s.RebuildArgs(s.Lab, "", targetsOf(members)...)
	must(t, err)
	if s.dieAt(t, at, "rebuild", args...) {
		died.add(point, "rebuild")
		s.resumeAny(t, "rebuild")
	}
	proofs, err := s.Prove(t.Context(), s.Same(members))
	check(t, Report{Verdict: "complete"}, proofs, err)

	if s.dieAt(t, at, "replay", "run", "replay") {
		died.add(point, "replay")
		s.resumeAny(t, "replay")
	}
}

// undoCapture kills a capture that has sealed its point, and then, at the n-th pass of a point, the process
// that undoes it. In the end the point is gone, and no other.
func (s *Scenario) undoCapture(t *testing.T, died deaths, point string, n int) {
	t.Helper()
	at, before := fmt.Sprintf("%s:%d", point, n), s.count(t, "points", "list", "--output", "json")
	s.say("dying at %s of an undo", at)
	if !s.dieAt(t, doOfSeal, "capture", "run", "capture") {
		t.Fatalf("the capture does not come to %s", doOfSeal)
	}
	if sealed := s.count(t, "points", "list", "--output", "json"); sealed != before+1 {
		t.Fatalf("%d points when one was sealed, %d before", sealed, before)
	}
	run := s.openRuns(t)[0]
	if s.dieAt(t, at, "undo", "runs", "cancel", run, "--undo") {
		died.add(point, "undo of capture")
	}
	if slices.Contains(s.openRuns(t), run) {
		must(t, s.Run(t.Context(), "undo", nil, "runs", "cancel", run, "--undo"))
	}
	var report struct {
		State string `json:"state"`
	}
	must(t, s.query(t.Context(), &report, "runs", "show", run, "--output", "json"))
	if left := s.count(t, "points", "list", "--output", "json"); left != before || report.State != "undone" {
		t.Errorf("killed at %s, it is %s, and of its undo %d points are left, %d were there before", at, report.State, left, before)
	}
}

// dieAt runs muster, which kills itself at a crash point, and reports whether it did; a plan that does
// not come there has to end well.
func (s *Scenario) dieAt(t *testing.T, point, log string, args ...string) bool {
	t.Helper()
	c, closeLogs, err := s.Command(t.Context(), log, nil, args...)
	must(t, err)
	defer closeLogs()
	c.Env = append(os.Environ(), "MUSTER_CRASHPOINT="+point)
	err = c.Run()
	if err == nil {
		return false
	}
	if c.ProcessState.ExitCode() != -1 { // not by a signal
		text, _ := os.ReadFile(s.path(log + ".err"))
		t.Fatalf("%s at %s: %v\n%s", log, point, err, lastLines(string(text), 15))
	}
	return true
}
