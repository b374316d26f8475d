package ceph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Daemon is one of a cluster's processes.
type Daemon string

// The daemons.
const (
	Monitor  Daemon = "ceph-mon"
	Manager  Daemon = "ceph-mgr"
	OSD      Daemon = "ceph-osd"
	Metadata Daemon = "ceph-mds"
)

var daemonID = map[Daemon]string{Monitor: "a", Manager: "x", OSD: "0", Metadata: "a"}

type process struct {
	command *exec.Cmd
	ended   chan struct{}
}

// Run starts a daemon: for the first time, or after Kill.
func (c *Cluster) Run(daemon Daemon) error {
	log, err := os.OpenFile(c.path("log/"+string(daemon)+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	command := c.command(context.Background(), string(daemon), "-i", daemonID[daemon], "-f")
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return err
	}
	p := &process{command, make(chan struct{})}
	go func() {
		_ = command.Wait() // the error is the signal that Kill sent
		close(p.ended)
	}()
	c.daemons[daemon] = p
	return nil
}

// Kill ends a daemon as a power cut does; its data stays.
func (c *Cluster) Kill(daemon Daemon) {
	p := c.daemons[daemon]
	if p == nil {
		return
	}
	_ = p.command.Process.Kill()
	<-p.ended
	delete(c.daemons, daemon)
}

// Stop makes a daemon stand still: its connections stay open, and nobody answers.
func (c *Cluster) Stop(daemon Daemon) error {
	return c.daemons[daemon].command.Process.Signal(syscall.SIGSTOP)
}

// Continue is the inverse of Stop.
func (c *Cluster) Continue(daemon Daemon) error {
	return c.daemons[daemon].command.Process.Signal(syscall.SIGCONT)
}

func (c *Cluster) runs(daemon Daemon) bool { return c.daemons[daemon] != nil }

// command is a program of Ceph with this cluster's configuration. Nothing outlives a test that was killed.
func (c *Cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	switch name {
	case "monmaptool", "ceph-authtool":
	default:
		args = append([]string{"-c", c.ConfigFile}, args...)
	}
	if c.config.Netns != "" {
		args = append([]string{"netns", "exec", c.config.Netns, name}, args...)
		name = "ip"
	}
	command := exec.CommandContext(ctx, name, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	command.Env = append(os.Environ(), "CEPH_ARGS=", "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES=33554432")
	return command
}

func (c *Cluster) exec(ctx context.Context, stdin, name string, args ...string) (string, error) {
	var out, diagnostics bytes.Buffer
	command := c.command(ctx, name, args...)
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &out, &diagnostics
	if err := command.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(diagnostics.String()))
	}
	if stdin != "" {
		return out.String() + diagnostics.String(), nil
	}
	return out.String(), nil
}

// Sweep ends the processes of Ceph that were started with a file in dir, mounts among them, and removes dir.
func Sweep(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unmount(dir); err != nil {
		return err
	}
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(line, []byte("\x00"+dir+"/")) || !bytes.HasPrefix(line, []byte("ceph-")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// unmount takes away what is mounted below a folder: to look into a CephFS that is gone takes minutes.
func unmount(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(fields[1], dir+"/") {
			continue
		}
		if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", fields[1], err)
		}
	}
	return nil
}

func (c *Cluster) logs() error {
	var all error
	for daemon := range daemonID {
		if text, err := os.ReadFile(c.path("log/" + string(daemon) + ".out")); err == nil && len(text) > 0 {
			all = errors.Join(all, fmt.Errorf("%s: %s", daemon, tail(string(text))))
		}
	}
	return all
}

func tail(text string) string {
	const limit = 1500
	text = strings.TrimSpace(text)
	return text[max(0, len(text)-limit):]
}
