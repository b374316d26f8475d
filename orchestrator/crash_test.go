package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

// crashCase is a plan whose process is killed, and what the world and the run must be in the end.
type crashCase struct {
	steps   []string
	state   string
	effects []string
}

func crashCases() map[string]crashCase {
	return map[string]crashCase{
		"forward": {
			[]string{"id: first, uses: touch", "id: each, uses: touch-each, needs: [first], maxParallel: 1", "id: last, uses: touch, needs: [each]"},
			RunStateCompleted, []string{"run-1-each-a", "run-1-each-b", "run-1-each-c", "run-1-first", "run-1-last"},
		},
		"undo": {
			[]string{"id: first, uses: touch", "id: each, uses: touch-each, needs: [first], maxParallel: 1", "id: broken, uses: fail, needs: [each], onFailure: undo"},
			RunStateUndone, []string{},
		},
	}
}

// crashChild starts the run of TestCrash, or goes on with it.
func crashChild(dir, name string) int {
	ctx := context.Background()
	w := newWorld(filepath.Join(dir, "world"))
	c := crashCases()[name]
	r, store, err := openRunner(ctx, filepath.Join(dir, "journal"), w)
	if err == nil {
		defer store.Close()
		err = crashRun(ctx, r, w, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// crashRun brings the run to its end and returns nil when that is the wanted one.
func crashRun(ctx context.Context, r *Runner, w *world, c crashCase) error {
	_, err := r.Resume(ctx, "run-1")
	if fault.Is(err, fault.NotFound) {
		plan, planErr := planOf(w.definitions(), c.steps...)
		if planErr != nil {
			return planErr
		}
		_, err = r.Start(ctx, Request{ID: "run-1", Plan: plan})
	}
	report, reportErr := r.Report(ctx, "run-1")
	if reportErr != nil {
		return errors.Join(err, reportErr)
	}
	if report.State != c.state {
		return fmt.Errorf("the run is %s, want %s: %w", report.State, c.state, err)
	}
	return nil
}

// TestCrash kills a process at every point at which it can die, each time it comes there; it kills the
// process that goes on with the run at the same point, and lets a third one finish. In the end every
// effect stands there once and nothing else, or, after an undo, nothing at all.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("left out: it kills a process some dozens of times")
	}
	binary := filepath.Join(t.TempDir(), "orchestrator.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "crashpoints", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var pairs, deaths atomic.Int64
	reached := map[string]*atomic.Int64{}
	for _, point := range crashpoint.Names() {
		reached[point] = &atomic.Int64{}
	}
	t.Run("points", func(t *testing.T) {
		for _, point := range crashpoint.Names() {
			for name, c := range crashCases() {
				t.Run(name+"/"+point, func(t *testing.T) {
					t.Parallel()
					killed := crashEverywhere(t, binary, point, name, c)
					reached[point].Add(killed)
					deaths.Add(killed)
					pairs.Add(min(killed, 1))
				})
			}
		}
	})
	for point, n := range reached {
		if n.Load() == 0 {
			t.Errorf("no plan comes to %s", point)
		}
	}
	t.Logf("%d points, %d pairs of a point and a plan, %d deaths", len(reached), pairs.Load(), deaths.Load())
}

func crashEverywhere(t *testing.T, binary, point, name string, c crashCase) (killed int64) {
	for n := 1; ; n++ {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "world"), 0o700); err != nil {
			t.Fatal(err)
		}
		if !crash(t, binary, dir, name, fmt.Sprintf("%s:%d", point, n)) {
			return killed
		}
		killed++
		crash(t, binary, dir, name, point+":1")
		if crash(t, binary, dir, name, "") {
			t.Fatal("the last process died by itself")
		}
		if effects := newWorld(filepath.Join(dir, "world")).effects(t); !slices.Equal(effects, c.effects) {
			t.Errorf("killed at the %d. %s, the effects are %v", n, point, effects)
		}
	}
}

// crash runs the child and reports whether it was killed.
func crash(t *testing.T, binary, dir, name, point string) bool {
	t.Helper()
	child := exec.Command(binary)
	child.Env = append(os.Environ(), "MUSTER_TEST_CRASH_DIR="+dir, "MUSTER_TEST_CRASH_CASE="+name, "MUSTER_CRASHPOINT="+point)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return true
		}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", point, err, strings.TrimSpace(string(out)))
	}
	return false
}
