package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/musterdr/muster/testenv"
)

// platform is what was measured on.
type platform struct {
	machine  string
	load     string // average of the minute before the run
	versions map[string]string
}

func look(ctx context.Context) (platform, error) {
	machine, err := describeMachine()
	if err != nil {
		return platform{}, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return platform{}, err
	}
	minute, _, _ := strings.Cut(string(load), " ")
	muster, err := command(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return platform{}, fmt.Errorf("git describe: %w", err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return platform{}, fmt.Errorf("this program holds no build information")
	}
	p := platform{machine: machine, load: minute, versions: map[string]string{
		"go": runtime.Version(), "kubernetes": testenv.KubernetesVersion, "muster": strings.TrimSpace(string(muster)),
	}}
	for _, module := range info.Deps {
		switch module.Path {
		case "go.etcd.io/etcd/server/v3":
			p.versions["etcd"] = module.Version
		case "github.com/kopia/kopia":
			p.versions["kopia"] = module.Version
		}
	}
	return p, nil
}

// describeMachine tells processor, cores, memory and kernel out of /proc.
func describeMachine() (string, error) {
	processor, err := procField("/proc/cpuinfo", "model name")
	if err != nil {
		return "", err
	}
	memory, err := procField("/proc/meminfo", "MemTotal")
	if err != nil {
		return "", err
	}
	var kilobytes int64
	if _, err := fmt.Sscan(memory, &kilobytes); err != nil {
		return "", fmt.Errorf("read MemTotal %q: %w", memory, err)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d cores, %d GiB, Linux %s", processor, runtime.NumCPU(), (kilobytes+1<<19)>>20, strings.TrimSpace(string(kernel))), nil
}

// procField returns the first value of "name: value" in a file.
func procField(path, name string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(line, ":")
		if found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s has no %q", path, name)
}
