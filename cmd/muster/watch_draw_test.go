package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator"
)

// moment is so long after the runs of these tests were started.
func moment(after time.Duration) time.Time {
	return time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC).Add(after)
}

func newView(state string, after time.Duration, steps ...orchestrator.StepReport) *orchestrator.View {
	return &orchestrator.View{
		Time: moment(after), Owner: "host-a/4711", Running: []orchestrator.RunningTask{}, Paces: map[string]orchestrator.Pace{},
		Report: &orchestrator.Report{
			Run: "nightly-20260102-150405-1f2e", Plan: "nightly", Cluster: "prod", State: state,
			Started: moment(0), Steps: steps,
		},
	}
}

func drawnStep(id, uses, state string, from, to time.Duration, needs ...string) orchestrator.StepReport {
	s := orchestrator.StepReport{ID: id, Uses: uses, State: state, Needs: needs, Tasks: 1, Attempts: 1, Started: moment(from)}
	if to > 0 {
		s.Ended, s.Seconds = moment(to), (to - from).Seconds()
	}
	if state == orchestrator.TaskVerified {
		s.Verified = 1
	}
	return s
}

func notBegun(id, uses, state string, waitsFor ...string) orchestrator.StepReport {
	return orchestrator.StepReport{ID: id, Uses: uses, State: state, Tasks: 1, Needs: waitsFor, WaitsFor: waitsFor}
}

const gib = 1 << 30

func fanOut() *orchestrator.View {
	etcd := drawnStep("etcd", "snapshot-etcd", orchestrator.TaskVerified, 0, 12300*time.Millisecond)
	etcd.Done.Bytes = 1288490188
	machines := drawnStep("machines", "capture-machines", orchestrator.TaskRunning, 13*time.Second, 0, "etcd")
	machines.Tasks, machines.Verified, machines.Retries, machines.Done.Bytes = 52, 2, 3, 20*gib
	v := newView(orchestrator.RunStateRunning, 3*time.Minute+12*time.Second, etcd, machines,
		notBegun("apps", "capture-namespaces", orchestrator.TaskPending, "machines"),
		notBegun("seal", "seal-recovery-point", orchestrator.TaskPending, "machines", "apps"))
	v.Paces["machines"] = orchestrator.Pace{Share: 0.13, BytesPerSecond: 310 << 20, Left: 1205}
	for i := range 42 {
		t := orchestrator.RunningTask{
			Update: orchestrator.Update{Step: "machines", Item: fmt.Sprintf("worker-%02d", i+1), Total: orchestrator.Amount{Bytes: 10 * gib}},
			State:  orchestrator.TaskRunning, Attempt: 1, Since: moment(20 * time.Second),
		}
		t.Done.Bytes = int64(41+i) * gib / 10
		t.Pace = orchestrator.Pace{Share: float64(t.Done.Bytes) / float64(10*gib), BytesPerSecond: 102 << 20, Left: 62}
		v.Running = append(v.Running, t)
	}
	v.Running[1].Status, v.Running[1].Attempt = "reads /var/lib/kubelet and everything that is mounted there", 2
	v.Running[2].State, v.Running[2].Until, v.Running[2].Error = orchestrator.TaskWaiting, moment(3*time.Minute+24*time.Second), "log in at 192.0.2.13: connection reset by peer"
	v.Running[3].State = orchestrator.TaskReceived
	v.Last = &orchestrator.TaskFailure{
		Time: moment(3 * time.Minute), Step: "machines", Item: "worker-03", Attempt: 1,
		Failure: orchestrator.Failure{Kind: "transient", Error: "log in at 192.0.2.13: connection reset by peer"},
	}
	v.Findings = map[orchestrator.Severity]int{orchestrator.Changed: 3, orchestrator.Info: 1}
	return v
}

func waitingForApproval() *orchestrator.View {
	goLive := drawnStep("go-live", "approve", orchestrator.TaskRunning, 62*time.Second, 0, "verify")
	v := newView(orchestrator.RunStateRunning, 5*time.Minute,
		drawnStep("verify", "verify-cluster", orchestrator.TaskVerified, 0, time.Minute), goLive,
		notBegun("notify", "notify", orchestrator.TaskPending, "go-live"))
	v.Running = append(v.Running, orchestrator.RunningTask{
		Update: orchestrator.Update{Step: "go-live"}, State: orchestrator.TaskRunning, Attempt: 1, Since: moment(62 * time.Second),
		Question: "Switch the DNS record of www.example.org to the new load balancer, wait until the old one takes no more connections, then confirm (lead, dns may decide)",
		Answer:   "muster runs approve nightly-20260102-150405-1f2e go-live --as lead --set ticket=… --set ttl=…",
	})
	return v
}

func failedRun() *orchestrator.View {
	apps := drawnStep("apps", "capture-namespaces", orchestrator.TaskFailed, 12*time.Second, 40*time.Second, "etcd")
	apps.Failure = &orchestrator.Failure{Kind: "corrupt", Error: "list pods at revision 4711: etcd has compacted it: take the etcd snapshot again, and make the plan's snapshot-etcd and capture-namespaces follow each other at once"}
	machines := drawnStep("machines", "capture-machines", orchestrator.TaskInterrupted, 12*time.Second, 41*time.Second, "etcd")
	machines.Tasks, machines.Verified, machines.LastItem = 3, 1, "worker-2"
	v := newView(orchestrator.RunStateFailed, 2*time.Minute,
		drawnStep("etcd", "snapshot-etcd", orchestrator.TaskVerified, 0, 12*time.Second), apps, machines,
		notBegun("report", "notify", orchestrator.TaskSkipped),
		notBegun("seal", "seal-recovery-point", orchestrator.TaskBlocked, "apps", "machines"),
		notBegun("tell", "notify", orchestrator.TaskBlocked, "seal"))
	v.Owner = ""
	v.Report.Ended, v.Report.Seconds = moment(42*time.Second), 42
	v.Report.Failure = &orchestrator.Failure{Kind: "corrupt", Error: "step apps: " + apps.Failure.Error}
	v.Last = &orchestrator.TaskFailure{
		Time: moment(41 * time.Second), Step: "machines", Item: "worker-2", Attempt: 2,
		Failure: orchestrator.Failure{Kind: "transient", Error: "read /var/lib: input/output error"},
	}
	return v
}

func completedRun() *orchestrator.View {
	machines := drawnStep("restore-machines", "restore-machines", orchestrator.TaskVerified, 15*time.Second, 9*time.Minute+20*time.Second, "etcd")
	machines.Tasks, machines.Verified, machines.LastItem, machines.Done.Bytes = 3, 3, "worker-2", 31*gib
	v := newView(orchestrator.RunStateCompleted, time.Hour,
		drawnStep("etcd", "verify-recovery-point", orchestrator.TaskVerified, 0, 12*time.Second), machines,
		drawnStep("confirm", "approve", orchestrator.TaskVerified, 9*time.Minute+20*time.Second, 10*time.Minute, "restore-machines"),
		drawnStep("verify", "verify-cluster", orchestrator.TaskVerified, 10*time.Minute, 12*time.Minute, "confirm"))
	v.Owner = ""
	r := v.Report
	r.Ended, r.Seconds, r.Verdict, r.RPOSeconds, r.RTOSeconds = moment(12*time.Minute+10*time.Second), 730, "incomplete", 3600, 730
	r.Critical = &orchestrator.CriticalPath{Seconds: 730, Paused: 100, After: 10, Steps: []orchestrator.CriticalStep{
		{ID: "etcd", State: "verified", Worked: 12, Share: 12.0 / 630},
		{ID: "restore-machines", State: "verified", LastItem: "worker-2", Waited: 3, Worked: 445, Paused: 100, Share: 448.0 / 630},
		{ID: "confirm", State: "skipped", Worked: 40, Share: 40.0 / 630},
		{ID: "verify", State: "verified", Worked: 120, Share: 120.0 / 630},
	}}
	v.Findings = map[orchestrator.Severity]int{orchestrator.Lost: 1}
	return v
}

func drawings() map[string]*orchestrator.View {
	return map[string]*orchestrator.View{
		"fan-out": fanOut(), "approval": waitingForApproval(), "failed": failedRun(), "completed": completedRun(),
	}
}

func TestDrawView(t *testing.T) {
	for name, view := range drawings() {
		for _, width := range []int{80, 120} {
			golden(t, filepath.Join("testdata", "watch", fmt.Sprintf("%s-%d.txt", name, width)),
				strings.Join(drawView(view, width, view.Time), "\n")+"\n")
		}
	}
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was:\n%s", path, got)
	}
}

// TestNoLineIsLongerThanTheTerminal also feeds what a terminal must never be told.
func TestNoLineIsLongerThanTheTerminal(t *testing.T) {
	views := drawings()
	hostile := fanOut()
	nasty := "\x1b[2J\x07 boo\r\n" + strings.Repeat("länge", 60)
	hostile.Report.Steps[1].ID, hostile.Running[0].Status, hostile.Last.Error = nasty, nasty, nasty
	hostile.Running[0].Item, hostile.Report.Run, hostile.Owner = nasty, nasty, nasty
	hostile.Trouble, hostile.Blockers = nasty, []orchestrator.Blocker{{Resource: nasty, Run: "x"}}
	views["hostile"] = hostile
	for name, view := range views {
		for width := 20; width < 200; width++ {
			lines := drawView(view, width, view.Time)
			for _, line := range lines {
				if len([]rune(line)) > width || strings.ContainsAny(line, "\x1b\x07\r\n") {
					t.Fatalf("%s at %d: %q", name, width, line)
				}
			}
			for height := 3; height < 40; height += 5 {
				if fit := fitted(newPicture(view, width, view.Time), height); len(fit) > height {
					t.Fatalf("%s: %d lines for %d", name, len(fit), height)
				}
			}
		}
	}
}

func TestFittedJoinsQuietSteps(t *testing.T) {
	v := newView(orchestrator.RunStateRunning, time.Minute)
	for i := range 60 {
		v.Report.Steps = append(v.Report.Steps, drawnStep(fmt.Sprintf("done-%d", i), "x", orchestrator.TaskVerified, 0, time.Second))
	}
	v.Report.Steps = append(v.Report.Steps, drawnStep("now", "x", orchestrator.TaskRunning, time.Second, 0), notBegun("next", "x", orchestrator.TaskPending, "now"))
	got := fitted(newPicture(v, 80, v.Time), 23)
	want := []string{"✓ 60 steps are verified", "● now", "○ next"}
	if len(got) != 6 {
		t.Fatalf("%d lines: %q", len(got), got)
	}
	for i, begin := range want {
		if !strings.HasPrefix(got[3+i], begin) {
			t.Errorf("line %q, want %q", got[3+i], begin)
		}
	}
}

func TestScreenDrawsOverWhatItDrew(t *testing.T) {
	var out strings.Builder
	width := 80
	s := &screen{out: &out, size: func() (int, int) { return width, 24 }, color: true}
	v := waitingForApproval()
	s.draw(v)
	if first := out.String(); strings.Contains(first, "A\r") || !strings.Contains(first, "\x1b[35m?\x1b[0m go-live") || strings.Contains(first, "\x1b[1A") {
		t.Errorf("the first picture: %q", first)
	}
	rows := s.rows
	out.Reset()
	s.draw(v)
	if !strings.HasPrefix(out.String(), fmt.Sprintf("\x1b[%dA\r\x1b[2K", rows)) || !strings.HasSuffix(out.String(), "\x1b[J") {
		t.Errorf("the second one: %q", out.String())
	}
	width = 40
	out.Reset()
	s.draw(v)
	if !strings.HasPrefix(out.String(), "\x1b[H\x1b[2J\r") {
		t.Errorf("on a terminal of another size: %q", out.String())
	}
}

func TestQuestionsStayOnALowTerminal(t *testing.T) {
	v := waitingForApproval()
	v.Report.Steps = append(v.Report.Steps, fanOut().Report.Steps[1])
	v.Running = append(v.Running, fanOut().Running...)
	fit := strings.Join(fitted(newPicture(v, 80, v.Time), 13), "\n")
	if !strings.Contains(fit, "--set ticket=…") || !strings.Contains(fit, "DNS record") || strings.Contains(fit, "worker-01") {
		t.Errorf("%s", fit)
	}
	fit = strings.Join(fitted(newPicture(v, 80, v.Time), 9), "\n")
	if !strings.Contains(fit, "--set ticket=…") || strings.Contains(fit, "DNS record") {
		t.Errorf("%s", fit)
	}
}
