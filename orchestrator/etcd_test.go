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
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
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
	log := &awaited{text: "nothing new is started", seen: make(chan struct{})}
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

// awaited is a log that tells when a text has been written.
type awaited struct {
	text string
	seen chan struct{}
	all  strings.Builder
	done bool
}

// Write implements io.Writer; slog calls it one at a time.
func (a *awaited) Write(p []byte) (int, error) {
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

// TestAStoppedRunnerIsFenced stops a runner past its lease; another one adopts the run and finishes it.
// When the first one goes on it is refused, says so, and has done nothing more.
func TestAStoppedRunnerIsFenced(t *testing.T) {
	c := etcd.Need(t, 1)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "etcd"), strings.Join([]string{strings.Join(c.Endpoints(), ","), c.CAFile, c.CertFile, c.KeyFile}, " "))
	if err := os.Mkdir(filepath.Join(dir, "world"), 0o700); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "MUSTER_TEST_FENCED_DIR="+dir)
	var diagnostics strings.Builder
	child.Stderr = &diagnostics
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("SLOW\n"))); err != nil {
		t.Fatal(err, diagnostics.String())
	}
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w := newWorld(filepath.Join(dir, "world"))
	r := runnerOn(t, external(c, io.Discard), w)
	if _, err := r.Resume(t.Context(), "run-1"); !fault.Is(err, fault.Busy) {
		t.Fatalf("a run was taken from a process that lives: %v", err)
	}
	adopted := adopt(t, r)
	if !adopted.Complete() {
		t.Fatalf("%+v", adopted)
	}
	if err := child.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "!"); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	err = child.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(diagnostics.String(), "belongs to another process") && !strings.Contains(diagnostics.String(), "took this run over") {
		t.Errorf("the first runner ended with %v: %s", err, diagnostics.String())
	}
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
