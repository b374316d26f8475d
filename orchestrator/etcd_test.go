package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/etcd"
)

// external is the journal's configuration for an etcd of its own processes.
func external(c *etcd.Cluster, log io.Writer) journal.Config {
	return journal.Config{
		Endpoints: c.Endpoints(), CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
		Owner: fmt.Sprintf("test/%d", os.Getpid()), Log: slog.New(slog.NewTextHandler(log, nil)),
	}
}

func runnerOn(t *testing.T, config journal.Config, w *world) *Runner {
	t.Helper()
	store, err := journal.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return NewRunner(Config{Store: store, Definitions: w.definitions(), Observer: deaf{}, Log: config.Log, Now: time.Now})
}

// TestOneOfThreeMembersIsReplaced kills a member of the journal's etcd while a run works, and puts a
// new one in its place: nobody notices.
func TestOneOfThreeMembersIsReplaced(t *testing.T) {
	c := etcd.Need(t, 3)
	w := newWorld(t.TempDir())
	var log strings.Builder
	r := runnerOn(t, external(c, &log), w)
	w.hook["each/a"] = func(context.Context) error { c.Kill(0); return nil }
	w.hook["each/c"] = func(ctx context.Context) error {
		if err := c.Replace(ctx, 0); err != nil {
			return err
		}
		return c.Ready(ctx)
	}
	report, err := r.Start(t.Context(), request(t, w, "id: first, uses: touch", "id: each, uses: touch-each, needs: [first], maxParallel: 1",
		"id: last, uses: touch, needs: [each]"))
	if err != nil || !report.Complete() {
		t.Fatalf("%+v, %v\n%s", report, err, log.String())
	}
	if len(w.effects(t)) != 5 || w.count("do first") != 1 || w.count("do each/b") != 1 || w.count("do last") != 1 {
		t.Errorf("the world holds %v after %v", w.effects(t), w.calls)
	}
}

// TestLostQuorumPausesRuns kills two members of three: the run says so and starts nothing; it ends by
// itself when they are back.
func TestLostQuorumPausesRuns(t *testing.T) {
	c := etcd.Need(t, 3)
	w := newWorld(t.TempDir())
	log := &signalled{text: "nothing new is started", seen: make(chan struct{})}
	r := runnerOn(t, external(c, log), w)
	w.hook["each/b"] = func(context.Context) error {
		c.Kill(0)
		c.Kill(1)
		go func() {
			<-log.seen
			w.called("quorum is back")
			for i := range 2 {
				if err := c.Start(i); err != nil {
					t.Error(err)
				}
			}
		}()
		return nil
	}
	report, err := r.Start(t.Context(), request(t, w, "id: each, uses: touch-each, maxParallel: 1", "id: last, uses: touch, needs: [each]"))
	if err != nil || !report.Complete() {
		t.Fatalf("%+v, %v\n%s", report, err, log.all.String())
	}
	back := w.position("quorum is back")
	if back < 0 || w.position("do each/c") < back || w.position("do last") < back || w.count("do each/b") != 1 {
		t.Errorf("something was started without a quorum: %v", w.calls)
	}
}

// signalled is a log that tells when a text has been written.
type signalled struct {
	text string
	seen chan struct{}
	all  strings.Builder
	done bool
}

// Write implements io.Writer; slog calls it one at a time.
func (a *signalled) Write(p []byte) (int, error) {
	a.all.Write(p)
	if !a.done && strings.Contains(string(p), a.text) {
		a.done = true
		close(a.seen)
	}
	return len(p), nil
}

// fencedChild owns a run on an external etcd; its step "slow" says so and waits until the parent has
// stopped it and let it go on.
func fencedChild(dir string) int {
	config, err := os.ReadFile(filepath.Join(dir, "etcd"))
	if err != nil {
		return 1
	}
	files := strings.Fields(string(config))
	w := newWorld(filepath.Join(dir, "world"))
	w.hook["slow"] = func(ctx context.Context) error {
		fmt.Println("SLOW")
		goOn := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(os.Stdin, make([]byte, 1))
			goOn <- err
		}()
		select {
		case err := <-goOn:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	store, err := journal.Open(context.Background(), journal.Config{
		Endpoints: strings.Split(files[0], ","), CAFile: files[1], CertFile: files[2], KeyFile: files[3],
		Owner: fmt.Sprintf("child/%d", os.Getpid()), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer store.Close()
	r := NewRunner(Config{Store: store, Definitions: w.definitions(), Observer: deaf{}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Now: time.Now})
	plan, err := planOf(w.definitions(), fencedPlan()...)
	if err == nil {
		_, err = r.Start(context.Background(), Request{ID: "run-1", Plan: plan})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 7
	}
	return 0
}

func fencedPlan() []string {
	return []string{"id: first, uses: touch", "id: slow, uses: touch, needs: [first]", "id: last, uses: touch, needs: [slow]"}
}

// child is a process that owns a run on an external etcd, in its step "slow".
type child struct {
	*exec.Cmd
	dir         string
	in          io.WriteCloser
	diagnostics strings.Builder
}

// startChild starts the process, by itself or through another program, and returns when it is slow.
func startChild(t *testing.T, c *etcd.Cluster, through ...string) *child {
	t.Helper()
	p := &child{dir: t.TempDir()}
	write(t, filepath.Join(p.dir, "etcd"), strings.Join([]string{strings.Join(c.Endpoints(), ","), c.CAFile, c.CertFile, c.KeyFile}, " "))
	if err := os.Mkdir(filepath.Join(p.dir, "world"), 0o700); err != nil {
		t.Fatal(err)
	}
	command := slices.Concat(through, []string{os.Args[0]})
	p.Cmd = exec.CommandContext(t.Context(), command[0], command[1:]...)
	p.Env = append(os.Environ(), "MUSTER_TEST_FENCED_DIR="+p.dir)
	p.Stderr = &p.diagnostics
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("SLOW\n"))); err != nil {
		t.Fatal(err, p.diagnostics.String())
	}
	return p
}

// goOn lets the slow step end, and wants the process to be refused.
func (p *child) goOn(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.in, "!"); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	err := p.Wait()
	said := p.diagnostics.String()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 ||
		!strings.Contains(said, "belongs to another process") && !strings.Contains(said, "took this run over") && !strings.Contains(said, "lease ended") {
		t.Errorf("the first runner ended with %v: %s", err, said)
	}
}

// checkOnce wants every effect once, and one history.
func (p *child) checkOnce(t *testing.T, r *Runner, w *world) {
	t.Helper()
	if effects := w.effects(t); !slices.Equal(effects, []string{"run-1-first", "run-1-last", "run-1-slow"}) {
		t.Errorf("the world holds %v", effects)
	}
	events, err := r.Store.Events(t.Context(), "run-1", 0)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for i, event := range events {
		counts[event.Type+" "+event.Step]++
		if event.Sequence != int64(i+1) {
			t.Errorf("event %d has sequence %d", i, event.Sequence)
		}
	}
	if counts["step.verified slow"] != 1 || counts["step.verified last"] != 1 || counts["run.completed "] != 1 {
		t.Errorf("the journal holds %v", counts)
	}
}

// TestAStoppedRunnerIsFenced stops a runner past its lease; another one adopts the run and finishes it.
// When the first one goes on it is refused, says so, and has done nothing more.
func TestAStoppedRunnerIsFenced(t *testing.T) {
	c := etcd.Need(t, 1)
	p := startChild(t, c)
	if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w := newWorld(filepath.Join(p.dir, "world"))
	r := runnerOn(t, external(c, io.Discard), w)
	if _, err := r.Resume(t.Context(), "run-1"); !fault.Is(err, fault.Busy) {
		t.Fatalf("a run was taken from a process that lives: %v", err)
	}
	if report := adopt(t, r); !report.Complete() {
		t.Fatalf("%+v", report)
	}
	if err := p.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.goOn(t)
	p.checkOnce(t, r, w)
}

// TestARunnerThatIsCutOffIsFenced cuts the network between a runner, which runs in a lab machine's
// network, and the journal's etcd, until another one has adopted its run; then the network is back.
func TestARunnerThatIsCutOffIsFenced(t *testing.T) {
	testenv.Need(t)
	const name = "cutoff"
	if err := testenv.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := testenv.Remove(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	l, err := testenv.Create(t.Context(), name, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.NewMachine(t.Context(), testenv.Machine{Name: "cutoff-runner", Role: testenv.RoleBlank}); err != nil {
		t.Fatal(err)
	}
	c := etcd.NeedAt(t, 1, l.Gateway())
	p := startChild(t, c, "ip", "netns", "exec", l.Namespace("cutoff-runner"))
	cut := func(action string) {
		script := "iptables " + action + " OUTPUT -p tcp -d " + l.Gateway() + " -j DROP"
		if _, err := l.Exec(t.Context(), "cutoff-runner", script, nil); err != nil {
			t.Fatal(err)
		}
	}
	cut("-I")
	w := newWorld(filepath.Join(p.dir, "world"))
	r := runnerOn(t, external(c, io.Discard), w)
	if report := adopt(t, r); !report.Complete() {
		t.Fatalf("%+v", report)
	}
	cut("-D")
	p.goOn(t)
	p.checkOnce(t, r, w)
}

// TestSeveralRunsAreAdoptedAtOnce interrupts two runs; adopted side by side, each has its own history.
func TestSeveralRunsAreAdoptedAtOnce(t *testing.T) {
	r, w := newRunner(t)
	for _, id := range []string{"run-1", "run-2"} {
		plan := request(t, w, "id: first, uses: touch", "id: each, uses: touch-each, needs: [first]", "id: last, uses: touch, needs: [each]")
		plan.ID = id
		x, err := r.prepare(t.Context(), plan)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Store.Create(t.Context(), x.header); err != nil {
			t.Fatal(err)
		}
		if x.journal, err = r.Store.Acquire(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		// As a process leaves it that dies in its first step.
		if err := errors.Join(x.moveRun(t.Context(), RunStarted, nil), x.move(t.Context(), StepIntent, x.ledger.byID["first"].whole, nil), x.release(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	reports := map[string]*Report{}
	var mu sync.Mutex
	if err := r.Adopt(t.Context(), true, func(id string, report *Report, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		reports[id] = report
	}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"run-1", "run-2"} {
		if report := reports[id]; report == nil || !report.Complete() || report.Run != id {
			t.Errorf("%s: %+v", id, report)
		}
		events, err := r.Store.Events(t.Context(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		verified := 0
		for _, event := range events {
			if event.Type == StepVerified {
				verified++
			}
		}
		if verified != 5 {
			t.Errorf("%s: its journal verifies %d tasks", id, verified)
		}
	}
	if effects := w.effects(t); len(effects) != 10 {
		t.Errorf("the world holds %v", effects)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// adopt adopts until a run has ended.
func adopt(t *testing.T, r *Runner) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var adopted *Report
	err := r.Adopt(ctx, false, func(_ string, report *Report, err error) {
		if err != nil {
			t.Error(err)
		}
		adopted = report
		cancel()
	})
	var interrupted *Interrupted
	if !errors.As(err, &interrupted) || adopted == nil {
		t.Fatalf("nothing was adopted: %v", err)
	}
	return adopted
}
