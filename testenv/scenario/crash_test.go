//go:build crashpoints

package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/musterdr/muster/state/crashpoint"
	"github.com/musterdr/muster/testenv"
)

// TestCrashPoints kills muster at every crash point of every built-in plan, on a real cluster: early in
// the run, and later. Each time another process resumes it, and the world is as if nothing had happened.
// It takes a quarter of an hour, so `make crash` alone is built with it.
func TestCrashPoints(t *testing.T) {
	s := play(t, testenv.Config{Name: "crash", ControlPlanes: 1})
	muster := filepath.Join(t.TempDir(), "muster")
	if out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", muster, "../../cmd/muster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.config.Muster = muster
	members := s.Members()
	pairs := 0
	for _, point := range crashpoint.Names() {
		for _, n := range []int{1, 7} {
			at := fmt.Sprintf("%s:%d", point, n)
			must(t, s.StartWriter(t.Context()))
			if s.dieAt(t, at, "capture", "run", "capture") {
				pairs++
				s.resumeAny(t, "capture")
			}
			must(t, s.EndCapture(t.Context()))
			must(t, s.Run(t.Context(), "verify", nil, "points", "verify", s.Point))

			must(t, s.Destroy(t.Context()))
			must(t, s.Blank(t.Context(), members))
			args, err := s.RebuildArgs(s.Lab, "", targetsOf(members)...)
			must(t, err)
			if s.dieAt(t, at, "rebuild", args...) {
				pairs++
				s.resumeAny(t, "rebuild")
			}
			proofs, err := s.Prove(t.Context(), s.Same(members))
			check(t, Report{Verdict: "complete"}, proofs, err)

			if s.dieAt(t, at, "replay", "run", "replay") {
				pairs++
				s.resumeAny(t, "replay")
			}
		}
	}
	t.Logf("%d points, %d deaths in built-in plans", len(crashpoint.Names()), pairs)
	if pairs < 3*4 { // four points stand in the way of every task
		t.Errorf("muster died %d times: a point is not reached", pairs)
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

// resumeAny goes on with the open run, if there is one: a process can die after its run has ended.
func (s *Scenario) resumeAny(t *testing.T, log string) {
	t.Helper()
	var runs []struct {
		ID    string `json:"run"`
		State string `json:"state"`
	}
	must(t, s.query(t.Context(), &runs, "runs", "list", "--output", "json"))
	for _, run := range runs {
		if !slices.Contains([]string{"completed", "cancelled", "undone"}, run.State) {
			must(t, s.Run(t.Context(), log, nil, "runs", "resume", run.ID))
		}
	}
}
