package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/musterdr/muster/orchestrator/host"
)

// forgetPeaks lets the kernel forget how much memory the bench and its providers have held at most.
func forgetPeaks() error {
	debug.FreeOSMemory()
	for _, pid := range append(providerProcesses(), os.Getpid()) {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200); err != nil { // proc(5)
			return err
		}
	}
	return nil
}

// peaks are the most that the bench, in muster's place, and its providers have held since then, in bytes.
func peaks() (muster, providers int64) {
	for _, pid := range providerProcesses() {
		providers += peak(pid)
	}
	return peak(os.Getpid()), providers
}

// peak is a process's VmHWM; zero when it has ended.
func peak(pid int) int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kib, _ := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return kib << 10
}

// providerProcesses are the children of the bench that are providers.
func providerProcesses() (pids []int) {
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range children {
		raw, _ := os.ReadFile(path)
		for word := range strings.FieldsSeq(string(raw)) {
			program, _ := os.Readlink("/proc/" + word + "/exe")
			if pid, err := strconv.Atoi(word); err == nil && strings.HasPrefix(filepath.Base(program), host.Prefix) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
