package scenario

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv"
)

// TestKilled interrupts and kills muster in the middle of the capture and of the rebuild; resumed runs
// end as if nothing had happened. Meanwhile nothing secret shows. Then the same point is brought back by hand.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := play(t, testenv.Config{Name: "killed", ControlPlanes: 1, Workers: 1, Disks: []testenv.Disk{{Name: Disk, Bytes: 64 << 20}}})
	endWatch := WatchProcesses(t.Context())
	members := s.Members()
	must(t, s.Tokens(t.Context()))

	must(t, s.StartWriter(t.Context()))
	if code := s.endAt(t, os.Interrupt, "step.intent      machines", "interrupted", "run", "capture"); code != 130 {
		t.Errorf("interrupted, it ends with %d, want 130", code)
	}
	s.endAt(t, os.Kill, "step.intent      apps", "killed", "runs", "resume", s.openRun(t))
	s.resume(t, "capture")
	must(t, s.EndCapture(t.Context()))
	if points := s.count(t, "points", "list", "--output", "json"); points != 1 {
		t.Errorf("there are %d recovery points after a resumed capture, want 1", points)
	}

	must(t, s.Destroy(t.Context()))
	must(t, s.Blank(t.Context(), members))
	args, err := s.RebuildArgs(s.Lab, "", targetsOf(members)...)
	must(t, err)
	s.endAt(t, os.Kill, "step.intent      machines", "rebuild", args...)
	report := s.resume(t, "rebuild")
	proofs, err := s.Prove(t.Context(), s.Same(members))
	check(t, report, proofs, err)
	if report.RPO <= 0 || report.RTO <= 0 {
		t.Errorf("the report tells an RPO of %g s and an RTO of %g s", report.RPO, report.RTO)
	}

	found, err := s.FindSecrets(endWatch())
	must(t, err)
	for _, place := range found {
		t.Error("a secret shows: " + place)
	}

	must(t, s.Destroy(t.Context()))
	must(t, s.Blank(t.Context(), members))
	s.breakGlass(t, members[0])
	proofs, err = s.Prove(t.Context(), s.Same(members))
	check(t, Report{Verdict: "complete"}, proofs, err)
}

// endAt starts muster, sends it a signal when its log holds the line, and returns its exit code.
func (s *Scenario) endAt(t *testing.T, signal os.Signal, line, log string, args ...string) int {
	t.Helper()
	c, closeLogs, err := s.Command(t.Context(), log, nil, args...)
	must(t, err)
	defer closeLogs()
	must(t, c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			t.Fatalf("it ended before it came to %q: %v", line, err)
		case <-ticker.C:
		}
		text, err := os.ReadFile(s.path(log + ".err"))
		must(t, err)
		if strings.Contains(string(text), line) {
			must(t, c.Process.Signal(signal))
			<-ended
			return c.ProcessState.ExitCode()
		}
	}
}

// openRun is the only run that has not ended.
func (s *Scenario) openRun(t *testing.T) string {
	t.Helper()
	var runs []struct {
		ID    string `json:"run"`
		State string `json:"state"`
	}
	must(t, s.query(t.Context(), &runs, "runs", "list", "--output", "json"))
	for _, run := range runs {
		if run.State != "completed" {
			return run.ID
		}
	}
	t.Fatalf("no run is open: %v", runs)
	return ""
}

// resume goes on with the only run that has not ended, and reads its report.
func (s *Scenario) resume(t *testing.T, log string) Report {
	t.Helper()
	must(t, s.Run(t.Context(), log, nil, "runs", "resume", s.openRun(t), "--report", s.path("report.json")))
	report, err := s.ReadReport()
	must(t, err)
	return report
}

func (s *Scenario) count(t *testing.T, args ...string) int {
	t.Helper()
	var list []any
	must(t, s.query(t.Context(), &list, args...))
	return len(list)
}

// breakGlass follows the printed script with the stock tools and without muster.
func (s *Scenario) breakGlass(t *testing.T, controlPlane string) {
	t.Helper()
	c, err := s.ByHand(t.Context())
	must(t, err)
	s.say("bringing it back by hand")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("by hand: %v\n%s", err, lastLines(string(out), 20))
	}
	client := context.WithoutCancel(t.Context())
	must(t, s.Lab.FetchKubeconfig(client, controlPlane))
}

// openRuns are the runs that have not ended.
func (s *Scenario) openRuns(t *testing.T) []string {
	t.Helper()
	var runs []struct {
		ID    string `json:"run"`
		State string `json:"state"`
	}
	must(t, s.query(t.Context(), &runs, "runs", "list", "--output", "json"))
	var open []string
	for _, run := range runs {
		if !slices.Contains([]string{"completed", "cancelled", "undone"}, run.State) {
			open = append(open, run.ID)
		}
	}
	return open
}

// resumeAny goes on with the open run, if there is one: a process can die after its run has ended.
func (s *Scenario) resumeAny(t *testing.T, log string) {
	t.Helper()
	for _, run := range s.openRuns(t) {
		must(t, s.Run(t.Context(), log, nil, "runs", "resume", run))
	}
}
