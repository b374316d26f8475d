//go:build cgo && ceph

package ceph

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/cephfs"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// mount is the state of an attachment's handle.
type mount struct {
	Mount string `json:"mount"` // the folder that ceph-fuse serves
	At    moment `json:"at"`
}

// Attach implements providers.Files. ceph-fuse serves the folder in a process of its own, which outlives this
// one: another process finds the mount by the token.
func (p *Provider) Attach(ctx context.Context, request providers.AttachRequest) (providers.Attachment, error) {
	const op = "attach volume"
	at, readOnly, err := attachable(op, request)
	if err != nil {
		return providers.Attachment{}, err
	}
	var a providers.Attachment
	err = bounded(ctx, op, func(ctx context.Context) error {
		unlock, err := p.keys.lock(ctx, "mount "+request.Token)
		if err != nil {
			return wrap(op, at.String(), err)
		}
		defer unlock()
		a, err = p.attach(ctx, op, request.Token, at, readOnly)
		return wrap(op, at.String(), p.here.note(err))
	})
	return a, err
}

func attachable(op string, r providers.AttachRequest) (moment, bool, error) {
	var at moment
	if err := checkToken(op, r.Token); err != nil {
		return at, false, err
	}
	if r.Volume.IsZero() == r.Snapshot.IsZero() {
		return at, false, fault.Newf(op, fault.Invalid, "", "name a volume or a snapshot")
	}
	var err error
	if r.Snapshot.IsZero() {
		at.place, err = readVolume(op, r.Volume)
	} else {
		at, err = readSnapshot(op, r.Snapshot)
	}
	if err == nil && at.FS == "" {
		err = fault.Newf(op, fault.Unsupported, at.String(), "it is an image: its blocks are read, and its filesystem is its user's")
	}
	return at, r.ReadOnly || at.Snap != "", err
}

func (p *Provider) attach(ctx context.Context, op, token string, at moment, readOnly bool) (providers.Attachment, error) {
	f, err := p.allowedFS(op, at.place)
	if err != nil {
		return providers.Attachment{}, err
	}
	a := providers.Attachment{}
	root := at.Path
	if at.Snap != "" {
		s, err := p.describeFolderSnapshot(f, at)
		if err != nil {
			return a, err
		}
		root, a.Instant, a.Mark = p.snapshotRoot(at.Path), s.Instant, changeMark{at.Snap, at.SnapID}.String()
	} else if _, err := f.mount.Statx(at.Path, cephfs.StatxBasicStats, 0); err != nil {
		return a, err
	}
	dir := filepath.Join(p.settings.MountFolder, nameOf("", token))
	if err := p.serve(ctx, dir, at.FS, root, readOnly); err != nil {
		return a, err
	}
	a.Path = dir
	if at.Snap != "" {
		a.Path = filepath.Join(dir, strings.TrimPrefix(p.snapFolder(at), root))
	}
	a.Handle = handleOf(mount{Mount: dir, At: at})
	return a, nil
}

// serve mounts a folder of the filesystem, unless it is mounted already. A mount whose process has died is
// made anew.
func (p *Provider) serve(ctx context.Context, dir, fs, root string, readOnly bool) error {
	mounted, err := isMounted(dir)
	if err != nil {
		return err
	}
	if mounted {
		if _, err := os.ReadDir(dir); err == nil {
			return nil
		}
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	args := []string{"--id", p.settings.User, "--client_fs", fs, "-r", root, "--client_mount_timeout", fmt.Sprint(int(p.here.timeout.Seconds()))}
	if p.settings.ConfigFile != "" {
		args = append(args, "-c", p.settings.ConfigFile)
	} else {
		args = append(args, "--no-config-file")
	}
	if len(p.settings.MonHosts) > 0 {
		args = append(args, "-m", strings.Join(p.settings.MonHosts, ","))
	}
	if p.settings.KeyringFile != "" {
		args = append(args, "-k", p.settings.KeyringFile)
	}
	options := "default_permissions,noatime"
	if readOnly {
		options += ",ro"
	}
	// Killed in the middle, it would leave a session for which CephFS waits a minute: it ends by its own timeout.
	return run(context.WithoutCancel(ctx), "ceph-fuse", append(args, "--log_file=", "--admin_socket=", "-o", options, dir)...)
}

// run runs a program in a session of its own, so that what it leaves running outlives this process.
func run(ctx context.Context, program string, args ...string) error {
	var said bytes.Buffer
	command := exec.CommandContext(ctx, program, args...)
	command.Stderr, command.WaitDelay = &said, time.Second
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err := command.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return fault.Newf("mount CephFS", fault.Unsupported, program, "%w; install the package ceph-fuse", err)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fault.Newf("mount CephFS", fault.Transient, program, "%w: %s", err, lastLine(said.String()))
	}
	return nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func isMounted(dir string) (bool, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return false, err
	}
	defer f.Close()
	escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(dir)
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) > 1 && fields[1] == escaped {
			return true, nil
		}
	}
	return false, scanner.Err()
}

// Detach implements providers.Files.
func (p *Provider) Detach(ctx context.Context, attachment providers.Handle) error {
	const op = "detach volume"
	var m mount
	if err := read(op, attachment, &m); err != nil {
		return err
	}
	if filepath.Dir(m.Mount) != filepath.Clean(p.settings.MountFolder) {
		return fault.Newf(op, fault.Invalid, m.Mount, "the handle names no mount under %s", p.settings.MountFolder)
	}
	return bounded(ctx, op, func(ctx context.Context) error {
		mounted, err := isMounted(m.Mount)
		if err != nil {
			return wrap(op, m.Mount, err)
		}
		if mounted {
			err = p.here.insist(ctx, "unmount "+m.Mount, func() error { return syscall.Unmount(m.Mount, 0) })
		}
		if err == nil {
			err = os.Remove(m.Mount)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return wrap(op, m.Mount, err)
	})
}

// copyFolder copies a snapshot's files into a folder, with owners, modes and extended attributes.
func (p *Provider) copyFolder(ctx context.Context, op string, from moment, to place) error {
	token := "copy " + to.String()
	source, err := p.attach(ctx, op, token+" source", from, true)
	if err != nil {
		return err
	}
	defer p.Detach(context.WithoutCancel(ctx), source.Handle) //nolint:errcheck // a repeat finds the mount
	target, err := p.attach(ctx, op, token+" target", moment{place: to}, false)
	if err != nil {
		return err
	}
	defer p.Detach(context.WithoutCancel(ctx), target.Handle) //nolint:errcheck // a repeat finds the mount
	providers.Report(ctx, providers.Progress{Text: "copy " + from.String()})
	return run(ctx, "cp", "--archive", "--no-target-directory", source.Path, target.Path)
}
