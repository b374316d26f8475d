//go:build cgo && ceph

package ceph

import (
	"context"
	"encoding/json"
	"maps"
	"path"
	"slices"
	"syscall"

	"github.com/ceph/go-ceph/cephfs"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// changeMark names a snapshot for Changes.
type changeMark struct {
	Snap   string `json:"snap"`
	SnapID uint64 `json:"snapID"`
}

func (m changeMark) String() string {
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err) // a string and a number
	}
	return string(raw)
}

// Changes implements providers.Files. CephFS of this version has no difference of snapshots. The latest change
// below a folder, which it does tell (ceph.dir.rctime), reaches even the folder of the file itself late, in
// snapshots too: by it, changes would be missed. So the entries of all folders are compared; no file is read.
func (p *Provider) Changes(ctx context.Context, request providers.ChangesRequest, each func([]string) error) error {
	const op = "list changed files"
	at, err := readVolume(op, request.Volume)
	if err != nil {
		return err
	}
	var since, until changeMark
	for _, m := range []struct {
		text string
		into *changeMark
	}{{request.Since, &since}, {request.Until, &until}} {
		if err := json.Unmarshal([]byte(m.text), m.into); err != nil || m.into.Snap == "" {
			return fault.Newf(op, fault.NotFound, m.text, "it is no mark of a snapshot's attachment")
		}
	}
	return guarded(ctx, op, each, func(ctx context.Context, each func([]string) error) error {
		f, err := p.allowedFS(op, at)
		if err != nil {
			return err
		}
		c := comparing{fs: f, each: each}
		for _, m := range []struct {
			mark changeMark
			into *string
		}{{since, &c.before}, {until, &c.after}} {
			if _, err := p.describeFolderSnapshot(f, moment{at, m.mark.Snap, m.mark.SnapID}); err != nil {
				return wrap(op, at.String()+"@"+m.mark.Snap, p.here.note(err))
			}
			*m.into = p.snapFolder(moment{at, m.mark.Snap, m.mark.SnapID})
		}
		err = c.walk(ctx, ".")
		if err == nil {
			err = c.flush()
		}
		return wrap(op, at.String(), p.here.note(err))
	})
}

// comparing walks two snapshots of a folder.
type comparing struct {
	fs            *filesystem
	before, after string
	each          func([]string) error
	pending       []string
}

func (c *comparing) walk(ctx context.Context, folder string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	before, err := c.entries(path.Join(c.before, folder))
	if gone(err) != nil {
		return err
	}
	after, err := c.entries(path.Join(c.after, folder))
	if err != nil {
		return err
	}
	if !maps.Equal(before, after) {
		if err := c.tell(folder); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if name == "." || !after[name].folder() {
			continue
		}
		if err := c.walk(ctx, path.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

// entry is what tells one state of a file or folder from another.
type entry struct {
	inode        cephfs.Inode
	mode         uint16
	uid, gid     uint32
	size         uint64
	mtime, ctime cephfs.Timespec
}

func (e entry) folder() bool { return e.mode&syscall.S_IFMT == syscall.S_IFDIR }

func entryOf(s *cephfs.CephStatx) entry {
	e := entry{s.Inode, s.Mode, s.Uid, s.Gid, s.Size, s.Mtime, s.Ctime}
	if e.folder() {
		e.size = 0 // CephFS gives the size of all below
	}
	return e
}

// entries are those of a folder, and "." the folder itself.
func (c *comparing) entries(folder string) (map[string]entry, error) {
	self, err := c.fs.mount.Statx(folder, cephfs.StatxBasicStats, cephfs.AtSymlinkNofollow)
	if err != nil {
		return nil, err
	}
	all := map[string]entry{".": entryOf(self)}
	if !all["."].folder() {
		return all, nil
	}
	err = c.fs.each(folder, func(e *cephfs.DirEntryPlus) error {
		all[e.Name()] = entryOf(e.Statx())
		return nil
	})
	return all, err
}

func (c *comparing) tell(folder string) error {
	if c.pending = append(c.pending, folder); len(c.pending) < 1000 {
		return nil
	}
	return c.flush()
}

func (c *comparing) flush() error {
	if len(c.pending) == 0 {
		return nil
	}
	pending := c.pending
	c.pending = nil
	return c.each(pending)
}
