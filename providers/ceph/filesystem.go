//go:build cgo && ceph

package ceph

import (
	"context"
	"encoding/json"
	"errors"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/cephfs"

	"github.com/musterdr/muster/providers/fault"
)

// filesystem is a CephFS in this process's hands: folders are made, marked, snapshotted and walked through
// libcephfs; their files are given to others by ceph-fuse (Attach).
type filesystem struct {
	name  string
	mount *cephfs.MountInfo
}

// Extended attributes on a folder, and on the folder that a volume's snapshots are taken of.
const (
	folderMark     = "user.muster.volume"
	folderSnapMark = "user.muster.snap." // and the snapshot's name
	maxBytes       = "ceph.quota.max_bytes"
)

// filesystem mounts one, at its first use.
func (p *Provider) filesystem(fs string) (*filesystem, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if mounted := p.mounts[fs]; mounted != nil {
		return mounted, nil
	}
	conn, err := p.here.connection()
	if err != nil {
		return nil, err
	}
	mount, err := cephfs.CreateFromRados(conn)
	if err != nil {
		return nil, wrap("mount CephFS", fs, err)
	}
	for _, step := range []func() error{
		func() error {
			return mount.SetConfigOption("client_mount_timeout", strconv.Itoa(int(p.here.timeout.Seconds())))
		},
		mount.Init,
		func() error { return mount.SelectFilesystem(fs) },
		mount.Mount,
	} {
		if err := step(); err != nil {
			_ = mount.Release() // the error that counts is the one above
			return nil, wrap("mount CephFS", fs, p.here.note(err))
		}
	}
	mounted := &filesystem{fs, mount}
	p.mounts[fs] = mounted
	return mounted, nil
}

func (f *filesystem) close() error { return errors.Join(f.mount.Unmount(), f.mount.Release()) }

// allowedFS is the filesystem of a place, if the settings name it.
func (p *Provider) allowedFS(op string, at place) (*filesystem, error) {
	if _, err := p.cluster(op, at.FSID); err != nil {
		return nil, err
	}
	for _, fs := range p.settings.Filesystems {
		if fs == at.FS {
			return p.filesystem(fs)
		}
	}
	return nil, fault.Newf(op, fault.Denied, at.String(), "the settings' filesystems are %q; add it there if Muster may use it", p.settings.Filesystems)
}

// onFolder runs body with the filesystem of a place, alone among all processes that work on the key.
func (p *Provider) onFolder(ctx context.Context, op string, at place, key string, body func(ctx context.Context, f *filesystem) error) error {
	return bounded(ctx, op, func(ctx context.Context) error {
		f, err := p.allowedFS(op, at)
		if err != nil {
			return err
		}
		run := func(ctx context.Context) error { return wrap(op, at.String(), p.here.note(body(ctx, f))) }
		if len(p.here.access.Pools) > 0 {
			return p.exclusive(ctx, op, p.here, place{Pool: p.here.access.Pools[0]}, at.FS+":"+key, run)
		}
		unlock, err := p.keys.lock(ctx, at.FS+":"+key)
		if err != nil {
			return wrap(op, key, err)
		}
		defer unlock()
		return run(ctx)
	})
}

// text reads an extended attribute; empty when it is not there.
func (f *filesystem) text(folder, attribute string) (string, error) {
	raw, err := f.mount.GetXattr(folder, attribute)
	if errno(err) == syscall.ENODATA {
		return "", nil
	}
	return strings.TrimRight(string(raw), "\x00"), err
}

func (f *filesystem) number(folder, attribute string) (int64, error) {
	text, err := f.text(folder, attribute)
	if err != nil || text == "" {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// stamp reads a time as CephFS writes it: seconds, and nanoseconds after a point.
func (f *filesystem) stamp(folder, attribute string) (time.Time, error) {
	text, err := f.text(folder, attribute)
	if err != nil {
		return time.Time{}, err
	}
	seconds, rest, _ := strings.Cut(text, ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	n, err := strconv.ParseInt((rest + "000000000")[:9], 10, 64)
	return time.Unix(s, n).UTC(), err
}

// mark reads a mark; nil when there is none.
func (f *filesystem) mark(folder, attribute string) (*snapshotMark, error) {
	text, err := f.text(folder, attribute)
	if err != nil || text == "" {
		return nil, err
	}
	m := new(snapshotMark)
	if err := json.Unmarshal([]byte(text), m); err != nil {
		return nil, fault.New("read a mark", fault.Corrupt, folder, err)
	}
	return m, nil
}

func (f *filesystem) setMark(folder, attribute string, m any) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return f.mount.SetXattr(folder, attribute, raw, cephfs.XattrDefault)
}

// folders are the names of a folder's subfolders; none when it is not there.
func (f *filesystem) folders(folder string) ([]string, error) {
	var names []string
	err := f.each(folder, func(e *cephfs.DirEntryPlus) error {
		if e.DType() == cephfs.DTypeDir {
			names = append(names, e.Name())
		}
		return nil
	})
	return names, gone(err)
}

// each calls see with a folder's entries, but for "." and "..".
func (f *filesystem) each(folder string, see func(*cephfs.DirEntryPlus) error) error {
	dir, err := f.mount.OpenDir(folder)
	if err != nil {
		return err
	}
	defer dir.Close() // nothing was written
	for {
		e, err := dir.ReadDirPlus(cephfs.StatxBasicStats, cephfs.AtSymlinkNofollow)
		if err != nil || e == nil {
			return err
		}
		if e.Name() == "." || e.Name() == ".." {
			continue
		}
		if err := see(e); err != nil {
			return err
		}
	}
}

// removeAll removes a folder with what is in it.
func (f *filesystem) removeAll(ctx context.Context, folder string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var folders, files []string
	err := f.each(folder, func(e *cephfs.DirEntryPlus) error {
		if e.DType() == cephfs.DTypeDir {
			folders = append(folders, e.Name())
		} else {
			files = append(files, e.Name())
		}
		return nil
	})
	if err != nil {
		return gone(err)
	}
	for _, name := range files {
		if err := gone(f.mount.Unlink(path.Join(folder, name))); err != nil {
			return err
		}
	}
	for _, name := range folders {
		if err := f.removeAll(ctx, path.Join(folder, name)); err != nil {
			return err
		}
	}
	return gone(f.mount.RemoveDir(folder))
}
