package gluster

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

// How long things may take on this host.
const (
	mountTime = 45 * time.Second
	aliveTime = 15 * time.Second // beyond pingSeconds
	syncTime  = 2 * time.Minute
	busyTime  = 3 * time.Second // in which whoever still holds a file may let go
)

// mountpoint is one mount of the FUSE client and what belongs to it:
//
//	<folder>/record.json  what was asked for
//	<folder>/data         the mount
//	<folder>/pid, log     of the client
type mountpoint struct {
	folder   string
	settings *Settings
}

func (p *pool) mountpoint(id string) mountpoint {
	return mountpoint{filepath.Join(p.settings.MountFolder, id), &p.settings}
}

func (m mountpoint) path() string { return filepath.Join(m.folder, "data") }

// mounted reports whether something is mounted there. It asks the kernel's table, not the mount, which may
// hang.
func (m mountpoint) mounted() (bool, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, fault.New("look at mounts", fault.Internal, m.path(), err)
	}
	path, err := realpath(m.path())
	if err != nil {
		return false, nil // not even the folder is there
	}
	for line := range bytes.Lines(raw) {
		if fields := bytes.Fields(line); len(fields) > 4 && unescape(string(fields[4])) == path {
			return true, nil
		}
	}
	return false, nil
}

// realpath resolves the folder above the mount alone: the mount itself may not answer.
func realpath(path string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// unescape undoes what the kernel does to blanks in its table.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// alive asks the mount a question, by a process that can be left behind.
func (m mountpoint) alive(ctx context.Context) error {
	limit := aliveTime + time.Duration(m.settings.PingSeconds)*time.Second
	out, err := m.local(ctx, limit, "stat", "--file-system", "--", m.path())
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fault.Newf("look at mount", fault.Transient, m.path(), "%w: %s: are the volume's bricks online? gluster volume status", err, out)
}

// local runs a program on this host and kills it after a time.
func (m mountpoint) local(ctx context.Context, limit time.Duration, name string, args ...string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var said bytes.Buffer
	c := exec.CommandContext(limited, name, args...)
	c.Stdout, c.Stderr, c.WaitDelay = &said, &said, time.Second
	err := c.Run()
	if ctx.Err() != nil {
		return "", ended(ctx, "run "+name, m.path())
	}
	if limited.Err() != nil {
		return "", errors.New("no answer for " + limit.String())
	}
	return firstLines(said.Bytes()), err
}

// mount starts the client for a volfile and waits until the mount answers. The client goes on after this
// process.
func (m mountpoint) mount(ctx context.Context, op, volfile string, readOnly bool) error {
	program, err := exec.LookPath("glusterfs")
	if err != nil {
		return fault.Newf(op, fault.Unsupported, volfile, "%w: install GlusterFS' FUSE client on this host (glusterfs-client)", err)
	}
	if err := os.MkdirAll(m.path(), 0o700); err != nil {
		return broken(op, m.path(), err)
	}
	if err := os.Remove(filepath.Join(m.folder, "log")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return broken(op, m.folder, err)
	}
	said, err := m.local(ctx, mountTime, program, m.arguments(volfile, readOnly)...)
	if err == nil {
		err = m.settled(ctx)
	}
	if err == nil {
		return nil
	}
	reason := m.whyNot()
	m.drop(context.WithoutCancel(ctx))
	if ctx.Err() != nil {
		return ended(ctx, op, volfile)
	}
	return fault.Newf(op, fault.Transient, volfile, "mount: %w: %s: %s", err, said, reason)
}

// settled waits until a mount that was started is in the kernel's table and answers.
func (m mountpoint) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mountTime)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if there, err := m.mounted(); err != nil || there {
			return errors.Join(err, m.alive(ctx))
		}
		if _, runs := m.client(); !runs {
			return errors.New("the client has ended")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m mountpoint) arguments(volfile string, readOnly bool) []string {
	args := []string{
		"--process-name", "fuse", "--volfile-id=" + volfile, "--pid-file=" + filepath.Join(m.folder, "pid"),
		"--log-file=" + filepath.Join(m.folder, "log"), "--log-level=WARNING",
		// By the ID of a file its paths are found: Changes needs that.
		"--aux-gfid-mount",
		// A brick that is silent must not hold a copy for the 42 seconds that volumes allow.
		"--xlator-option=*client*.ping-timeout=" + strconv.Itoa(m.settings.PingSeconds),
	}
	for _, peer := range m.settings.Peers {
		args = append(args, "--volfile-server="+peer.Address)
	}
	if readOnly {
		args = append(args, "--read-only")
	}
	for _, o := range m.settings.MountOptions {
		args = append(args, "--"+o)
	}
	return append(args, m.path())
}

// whyNot is the last error in the client's log.
func (m mountpoint) whyNot() string {
	raw, err := os.ReadFile(filepath.Join(m.folder, "log"))
	if err != nil {
		return "the client has written no log"
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for _, line := range slices.Backward(lines) {
		if strings.Contains(line, "] E [") {
			return firstLines([]byte(line))
		}
	}
	return firstLines([]byte(lines[len(lines)-1]))
}

// client is the process behind the mount, if it is still that process.
func (m mountpoint) client() (pid int, runs bool) {
	raw, err := os.ReadFile(filepath.Join(m.folder, "pid"))
	if err != nil {
		return 0, false
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(raw))); err != nil || pid <= 1 {
		return 0, false
	}
	command, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return pid, err == nil && bytes.Contains(command, []byte(m.path()))
}

// unmount writes everything back and unmounts.
func (m mountpoint) unmount(ctx context.Context, op string) error {
	there, err := m.mounted()
	if err != nil || !there {
		return err
	}
	if m.alive(ctx) != nil {
		m.drop(ctx)
		return nil
	}
	if said, err := m.local(ctx, syncTime, "sync", "--file-system", "--", m.path()); err != nil {
		return fault.Newf(op, fault.Transient, m.path(), "what was written may not all be stored: %w: %s", err, said)
	}
	limited, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	for {
		err := unix.Unmount(m.path(), unix.UMOUNT_NOFOLLOW)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return m.awaitEnd(ctx)
		}
		if !errors.Is(err, unix.EBUSY) {
			return broken(op, m.path(), err)
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-limited.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return ended(ctx, op, m.path())
			}
			return fault.Newf(op, fault.Busy, m.path(), "a process still uses it: fuser -vm shows which")
		}
	}
}

// awaitEnd waits until the client has ended, and ends it when it does not.
func (m mountpoint) awaitEnd(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		pid, runs := m.client()
		if !runs {
			return nil
		}
		select {
		case <-ticker.C:
		case <-limited.Done():
			_ = unix.Kill(pid, unix.SIGKILL)
			return nil
		}
	}
}

// drop takes a mount away that does not answer.
func (m mountpoint) drop(ctx context.Context) {
	if pid, runs := m.client(); runs {
		_ = unix.Kill(pid, unix.SIGKILL) // what waits for it gets an error
	}
	for there, err := m.mounted(); there && err == nil && ctx.Err() == nil; there, err = m.mounted() {
		if unix.Unmount(m.path(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
			return
		}
	}
}

// remove deletes the files beside the mount, and never anything in it.
func (m mountpoint) remove(op string) error {
	if there, err := m.mounted(); err != nil || there {
		return errors.Join(err, fault.Newf(op, fault.Busy, m.path(), "it is still mounted"))
	}
	for _, name := range []string{"data", "pid", "log", "record.json", "record.json.new", ""} {
		if err := os.Remove(filepath.Join(m.folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return broken(op, m.folder, err)
		}
	}
	return nil
}

// broken is an error of this host's filesystem.
func broken(op, path string, err error) error {
	kind := fault.Internal
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		kind = fault.NoSpace
	case errors.Is(err, fs.ErrPermission):
		kind = fault.Denied
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EIO), errors.Is(err, unix.ESTALE):
		kind = fault.Transient
	}
	return fault.New(op, kind, path, err)
}
