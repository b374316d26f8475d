package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv"
)

func fullDiskPlan() []string {
	return []string{"id: first, uses: touch", "id: many, uses: touch-large, needs: [first], maxParallel: 2"}
}

// fullDiskChild runs a plan whose journal outgrows its disk, or goes on with it, and ends with the
// number of the error's kind plus 100.
func fullDiskChild(dir string) int {
	ctx := context.Background()
	w := newWorld(filepath.Join(dir, "world"))
	r, _, err := openRunner(ctx, filepath.Join(dir, "disk", "journal"), w)
	if err == nil {
		_, err = r.Resume(ctx, "run-1")
	}
	if fault.Is(err, fault.NotFound) {
		plan, planErr := planOf(w.definitions(), fullDiskPlan()...)
		if planErr != nil {
			return 1
		}
		_, err = r.Start(ctx, Request{ID: "run-1", Plan: plan})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 100 + int(fault.KindOf(err))
	}
	return 0
}

// TestFullAndReadOnlyDisksUnderTheJournal fills the disk under the embedded etcd, and makes it
// read-only: each is a clear error; with room, and writable, the run goes on and nothing is lost.
func TestFullAndReadOnlyDisksUnderTheJournal(t *testing.T) {
	testenv.Need(t) // it mounts
	dir := t.TempDir()
	disk, world := filepath.Join(dir, "disk"), filepath.Join(dir, "world")
	for _, folder := range []string{disk, world} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, "-t", "tmpfs", "-o", "size=600m", "tmpfs", disk)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	ballast := filepath.Join(disk, "ballast")
	if out, err := exec.Command("fallocate", "-l", "440M", ballast).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 2 { // resumed without room, it says the same
		code, said := fullDiskRun(t, dir)
		if code != 100+int(fault.NoSpace) || !strings.Contains(said, "no space left") || !strings.Contains(said, "make room") {
			t.Fatalf("on a full disk it ends with %d: %s", code, said)
		}
		if strings.Contains(said, "goroutine ") {
			t.Errorf("it fell over: %s", said)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	mount(t, "-o", "remount,ro", disk)
	if code, said := fullDiskRun(t, dir); code != 100+int(fault.Denied) || !strings.Contains(said, "read-only file system") || !strings.Contains(said, "--state-dir") {
		t.Fatalf("on a read-only disk it ends with %d: %s", code, said)
	}
	mount(t, "-o", "remount,rw", disk)
	if code, said := fullDiskRun(t, dir); code != 0 {
		t.Fatalf("with room it ends with %d: %s", code, said)
	}
	if effects := newWorld(world).effects(t); len(effects) != 1+largeItems {
		t.Errorf("the world holds %d effects, want %d", len(effects), 1+largeItems)
	}
}

func mount(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Fatalf("mount %v: %v: %s", args, err, out)
	}
}

func fullDiskRun(t *testing.T, dir string) (code int, said string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "MUSTER_TEST_FULL_DIR="+dir)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, string(out)
}
