package gluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/musterdr/muster/testenv"
)

// Shared is a pool that all tests of a package use: made when the first needs it, ended by Down.
type Shared struct {
	name  string
	peers []string
	bytes int64

	once    sync.Once
	cluster *Cluster
	err     error
}

// NewShared describes a pool in a lab of its own, whose machines have bytes for bricks.
func NewShared(lab string, bytes int64, peers ...string) *Shared {
	return &Shared{name: lab, peers: peers, bytes: bytes}
}

// MountFolder is where tests with this pool mount volumes on the host: what a test that was killed has left
// there goes with the next.
func (s *Shared) MountFolder() string { return filepath.Join("/run/muster-gluster-lab", s.name) }

// Up makes the pool, after it has removed what an earlier process left.
func (s *Shared) Up(ctx context.Context, say func(format string, args ...any)) (*Cluster, error) {
	s.once.Do(func() {
		if s.err = s.Down(ctx); s.err != nil {
			return
		}
		if s.err = testenv.Install(ctx, "glusterfs-client", "attr"); s.err != nil {
			return
		}
		var lab *testenv.Lab
		if lab, s.err = testenv.Create(ctx, s.name, say); s.err != nil {
			return
		}
		s.cluster, s.err = Up(ctx, lab, s.bytes, s.peers...)
	})
	return s.cluster, s.err
}

// Down ends the pool and whatever of it is mounted on the host, also when another process made it.
func (s *Shared) Down(ctx context.Context) error {
	return errors.Join(s.unmountAll(ctx), testenv.Remove(ctx, s.name))
}

// unmountAll ends the clients first: a mount whose pool is gone would keep whoever touches it.
func (s *Shared) unmountAll(ctx context.Context) error {
	if err := killClients(s.MountFolder()); err != nil {
		return err
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasPrefix(fields[4], s.MountFolder()+"/") {
			continue
		}
		if out, err := exec.CommandContext(ctx, "umount", "--lazy", fields[4]).CombinedOutput(); err != nil {
			return fmt.Errorf("umount %s: %w: %s", fields[4], err, out)
		}
	}
	return os.RemoveAll(s.MountFolder())
}

// killClients ends the FUSE clients whose mounts are below a folder, by their process IDs.
func killClients(folder string) error {
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range pids {
		raw, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		words := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err != nil || filepath.Base(words[0]) != "glusterfs" ||
			!strings.HasPrefix(words[len(words)-1], folder+"/") {
			continue
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
	}
	return nil
}
