package scenario

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv"
)

// TestKilled kills muster in the middle of the capture and of the rebuild; resumed runs end as if
// nothing had happened. Meanwhile nothing secret shows. Then the same point is brought back by hand.
func TestKilled(t *testing.T) {
	s := play(t, testenv.Config{Name: "killed", ControlPlanes: 1, Workers: 1, Disks: []testenv.Disk{{Name: Disk, Bytes: 64 << 20}}})
	endWatch := WatchProcesses(t.Context())
	members := s.Members()

	must(t, s.StartWriter(t.Context()))
	s.killAt(t, "step.intent      machines", "capture", "run", "capture")
	s.resume(t, "capture")
	must(t, s.EndCapture(t.Context()))
	if points := s.count(t, "points", "list", "--output", "json"); points != 1 {
		t.Errorf("there are %d recovery points after a resumed capture, want 1", points)
	}

	must(t, s.Destroy(t.Context()))
	s.blankAgain(t, members)
	args, err := s.RebuildArgs(s.Lab, "", targetsOf(members)...)
	must(t, err)
	s.killAt(t, "step.intent      machines", "rebuild", args...)
	s.resume(t, "rebuild")
	proofs, err := s.Prove(t.Context(), s.Same(members))
	check(t, Report{Verdict: "complete"}, proofs, err)

	found, err := s.FindSecrets(endWatch())
	must(t, err)
	for _, place := range found {
		t.Error("a secret shows: " + place)
	}

	must(t, s.Destroy(t.Context()))
	s.blankAgain(t, members)
	s.breakGlass(t, members[0])
	proofs, err = s.Prove(t.Context(), s.Same(members))
	check(t, Report{Verdict: "complete"}, proofs, err)
}

func (s *Scenario) blankAgain(t *testing.T, members []string) {
	t.Helper()
	for _, name := range members {
		m := testenv.Machine{Name: name, Role: testenv.RoleBlank}
		if name == s.diskOn {
			m.Disks = []testenv.Disk{{Name: Disk, Bytes: 64 << 20}}
		}
		must(t, s.Lab.NewMachine(t.Context(), m))
	}
}

// killAt starts muster and kills it when its log holds the line.
func (s *Scenario) killAt(t *testing.T, line, log string, args ...string) {
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
			must(t, c.Process.Kill())
			<-ended
			return
		}
	}
}

// resume goes on with the only run that has not ended.
func (s *Scenario) resume(t *testing.T, log string) {
	t.Helper()
	var runs []struct {
		ID    string `json:"run"`
		State string `json:"state"`
	}
	must(t, s.query(t.Context(), &runs, "runs", "list", "--output", "json"))
	open := ""
	for _, run := range runs {
		if run.State != "completed" {
			open = run.ID
		}
	}
	if open == "" {
		t.Fatalf("no run is open: %v", runs)
	}
	must(t, s.Run(t.Context(), log, nil, "runs", "resume", open))
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
	tools, err := testenv.StockTools(t.Context(), s.say)
	must(t, err)
	var script strings.Builder
	must(t, s.Run(t.Context(), "break-glass", &script, "points", "show", "latest", "--break-glass"))
	must(t, os.RemoveAll(s.path("state")))
	bin := s.path("bin")
	must(t, os.MkdirAll(bin, 0o755))
	must(t, os.WriteFile(s.path("ssh_config"), []byte(s.Lab.SSHConfig()), 0o600))
	// A person's own ssh_config names key and known hosts; so does this ssh.
	must(t, os.WriteFile(bin+"/ssh", []byte("#!/bin/sh\nexec /usr/bin/ssh -F "+s.path("ssh_config")+" \"$@\"\n"), 0o755))
	s.say("bringing it back by hand")
	c := exec.CommandContext(t.Context(), "sh", "-eu")
	c.Dir = s.config.Dir
	c.Stdin = strings.NewReader(script.String())
	c.Env = []string{"HOME=" + s.config.Dir, "PATH=" + bin + ":" + tools + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("by hand: %v\n%s", err, lastLines(string(out), 20))
	}
	client := context.WithoutCancel(t.Context())
	must(t, s.Lab.FetchKubeconfig(client, controlPlane))
}
