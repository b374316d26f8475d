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
	"syscall"
	"testing"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

func crashPlan() []string {
	return []string{"id: first, uses: touch", "id: each, uses: touch-each, needs: [first], maxParallel: 1", "id: last, uses: touch, needs: [each]"}
}

// crashChild starts the run of TestCrash, or goes on with it.
func crashChild(dir string) int {
	ctx := context.Background()
	w := newWorld(filepath.Join(dir, "world"))
	r, store, err := openRunner(ctx, filepath.Join(dir, "journal"), w)
	if err == nil {
		defer store.Close()
		_, err = r.Resume(ctx, "run-1")
		if fault.Is(err, fault.NotFound) {
			plan, planErr := planOf(w.definitions(), crashPlan()...)
			if planErr != nil {
				err = planErr
			} else {
				_, err = r.Start(ctx, Request{ID: "run-1", Plan: plan})
			}
		}
	}
	if err != nil && !fault.Is(err, fault.Exists) { // it had ended before it died
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestCrash kills a process at every point at which it can die, each time it comes there, and lets
// another one go on. In the end every effect stands there once, and nothing else.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("left out: it kills a process some dozens of times")
	}
	binary := filepath.Join(t.TempDir(), "orchestrator.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "crashpoints", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := []string{"run-1-each-a", "run-1-each-b", "run-1-each-c", "run-1-first", "run-1-last"}
	for _, point := range crashpoint.Names() {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			killed := 0
			for n := 1; ; n++ {
				dir := t.TempDir()
				if err := os.Mkdir(filepath.Join(dir, "world"), 0o700); err != nil {
					t.Fatal(err)
				}
				if !crash(t, binary, dir, fmt.Sprintf("%s:%d", point, n)) {
					break
				}
				killed++
				if crash(t, binary, dir, "") {
					t.Fatal("the second process died by itself")
				}
				if effects := newWorld(filepath.Join(dir, "world")).effects(t); !slices.Equal(effects, want) {
					t.Errorf("killed at the %d. %s, the effects are %v", n, point, effects)
				}
			}
			if killed < 5 { // one for each task at least
				t.Errorf("it was killed %d times", killed)
			}
		})
	}
}

// crash runs the child and reports whether it was killed.
func crash(t *testing.T, binary, dir, point string) bool {
	t.Helper()
	child := exec.Command(binary)
	child.Env = append(os.Environ(), "MUSTER_TEST_CRASH_DIR="+dir, "MUSTER_CRASHPOINT="+point)
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
