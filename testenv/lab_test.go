package testenv

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const leakLab = "leak"

// TestMain is also the process that TestLabLeavesNothing kills.
func TestMain(m *testing.M) {
	if os.Getenv("MUSTER_LAB_CHILD") == "" {
		os.Exit(m.Run())
	}
	_, err := Up(context.Background(), leakConfig(), func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	fmt.Println("up:", err)
}

func leakConfig() Config {
	return Config{Name: leakLab, ControlPlanes: 1, Workers: 1, Disks: []Disk{{Name: "vdb", Bytes: 32 << 20}}}
}

// TestLabLeavesNothing kills `lab up` at several moments, a cluster that runs among them; after
// `lab down --all` the machine is as it was.
func TestLabLeavesNothing(t *testing.T) {
	Need(t)
	if labs, err := List(); err != nil || len(labs) > 0 {
		t.Fatalf("this test ends all labs of the machine, and there are some (%d, %v): lab down --all", len(labs), err)
	}
	if err := Build(t.Context(), t.Logf); err != nil {
		t.Fatal(err)
	}
	before := hostState(t)
	for _, until := range []string{"booting leak-cp-0", "booting leak-worker-0", "kubeadm init on leak-cp-0", "waiting until all nodes are ready"} {
		killAtLine(t, until)
		if err := DownAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		compareStates(t, "after "+until, before, hostState(t))
	}
	// The files of a lab are lost, the lab lives.
	killAtLine(t, "kubeadm init on leak-cp-0")
	if err := removeWhileWritten(StateDir()); err != nil {
		t.Fatal(err)
	}
	if err := DownAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	compareStates(t, "after its files were lost", before, hostState(t))
}

// killAtLine starts `lab up` in a process of its own and kills it when it says the line.
func killAtLine(t *testing.T, line string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "MUSTER_LAB_CHILD=1")
	child.Stdout, child.Stderr = out, out
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), line) {
			break
		}
		select {
		case <-ticker.C:
		case err := <-ended:
			t.Fatalf("it ended before it said %q: %v\n%s", line, err, text)
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// hostState is what a lab could leave behind, by kind.
func hostState(t *testing.T) map[string][]string {
	t.Helper()
	list := func(name string, args ...string) []string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return lines(string(out))
	}
	read := func(path string) []string {
		raw, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return lines(string(raw))
	}
	var mounts []string
	for _, line := range read("/proc/self/mountinfo") {
		mounts = append(mounts, strings.Fields(line)[4]) // the mount point: numbers are given anew
	}
	var cgroups []string
	_ = filepath.WalkDir(cgroupRoot, func(path string, entry fs.DirEntry, err error) error { // folders of ended sessions may go meanwhile
		if err == nil && entry.IsDir() {
			cgroups = append(cgroups, path)
		}
		return nil
	})
	state := map[string][]string{
		"network links":      list("ls", "/sys/class/net"),
		"network namespaces": list("ip", "netns", "list"),
		"routes":             list("ip", "route", "show", "table", "all"),
		"mounts":             mounts,
		"loop devices":       list("losetup", "--list", "--noheadings"),
		"cgroups":            cgroups,
		"iptables":           append(read("/proc/net/ip_tables_names"), read("/proc/net/nf_tables_names")...),
		"processes":          processes(t),
	}
	if _, err := os.Stat(StateDir()); err == nil {
		state["files"] = []string{StateDir()}
	}
	for _, values := range state {
		slices.Sort(values)
	}
	return state
}

// processes are the commands that run, without the kernel's own and without the test's.
func processes(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, entry := range entries {
		command, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || len(command) == 0 {
			continue // no process, one that ended, or one of the kernel's
		}
		namespace, err := os.Readlink(filepath.Join("/proc", entry.Name(), "ns/mnt"))
		own, _ := os.Readlink("/proc/self/ns/mnt")
		if err == nil && namespace != own || strings.Contains(string(command), "containerd") || strings.Contains(string(command), "muster-lab") {
			out = append(out, strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return out
}

func lines(text string) []string {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func compareStates(t *testing.T, when string, before, after map[string][]string) {
	t.Helper()
	for kind := range maps.Keys(after) {
		for _, value := range after[kind] {
			if !slices.Contains(before[kind], value) {
				t.Errorf("%s: %s: there is %s", when, kind, value)
			}
		}
		for _, value := range before[kind] {
			if !slices.Contains(after[kind], value) && kind != "processes" && kind != "cgroups" {
				t.Errorf("%s: %s: %s is gone", when, kind, value)
			}
		}
	}
}
