package testenv

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupOf is the machine's cgroup in every controller, of which it sees nothing but its own part.
func cgroupOf(machine string) string { return "muster-lab/" + machine }

// controllers are the host's cgroup v1 hierarchies.
func controllers() []string {
	entries, _ := os.ReadDir(cgroupRoot) // none: the boot script's error is clearer than one made here
	var out []string
	for _, entry := range entries {
		if entry.IsDir() && entry.Name() != "unified" {
			out = append(out, entry.Name())
		}
	}
	return out
}

// makeCgroup makes the machine's cgroups; a cpuset can hold no process before it has CPUs and memory.
func makeCgroup(machine string) error {
	for _, controller := range controllers() {
		dir := filepath.Join(cgroupRoot, controller, cgroupOf(machine))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if controller != "cpuset" {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			all, err := os.ReadFile(filepath.Join(cgroupRoot, controller, file))
			if err != nil {
				return err
			}
			for _, at := range []string{filepath.Dir(dir), dir} {
				if err := os.WriteFile(filepath.Join(at, file), all, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// cgroupPIDs are all processes in the machine's cgroups.
func cgroupPIDs(machine string) []string {
	var pids []string
	for _, controller := range controllers() {
		walkCgroup(filepath.Join(cgroupRoot, controller, cgroupOf(machine)), func(dir string) {
			raw, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // gone is as good as empty
			pids = append(pids, strings.Fields(string(raw))...)
		})
	}
	return pids
}

// removeCgroup removes the machine's cgroups, innermost first; "" removes the lab's own.
func removeCgroup(machine string) error {
	var problems []error
	for _, controller := range controllers() {
		walkCgroup(filepath.Join(cgroupRoot, controller, cgroupOf(machine)), func(dir string) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, err)
			}
		})
	}
	return errors.Join(problems...)
}

// walkCgroup calls fn for every folder below and at dir, children first.
func walkCgroup(dir string, fn func(dir string)) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if entry.IsDir() {
			walkCgroup(filepath.Join(dir, entry.Name()), fn)
		}
	}
	fn(dir)
}
