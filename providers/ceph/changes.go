//go:build cgo && ceph

package ceph

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"

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

// Changes implements providers.Files. CephFS of this version has no difference of snapshots, but knows of every
// folder when something in it or below has changed at last (ceph.dir.rctime), in snapshots too. That time
// reaches the folders above late, so that every folder is asked.
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
			return fault.Newf(op, fault.Invalid, m.text, "it is no mark of a snapshot's attachment")
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
	changed, err := c.differs(folder)
	if err != nil {
		return err
	}
	if changed {
		if c.pending = append(c.pending, folder); len(c.pending) >= 1000 {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	below, err := c.fs.folders(path.Join(c.after, folder))
	if err != nil {
		return err
	}
	slices.Sort(below)
	for _, name := range below {
		if err := c.walk(ctx, path.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

// differs compares a folder's own times, and the latest below it, in both snapshots.
func (c *comparing) differs(folder string) (bool, error) {
	var seen [2]string
	for n, root := range []string{c.before, c.after} {
		at := path.Join(root, folder)
		stat, err := c.fs.mount.Statx(at, cephfs.StatxBasicStats, cephfs.AtSymlinkNofollow)
		if n == 0 && kindOf(err) == fault.NotFound && err != nil {
			return true, nil
		}
		if err != nil {
			return true, err
		}
		latest, err := c.fs.text(at, "ceph.dir.rctime")
		if err != nil {
			return true, err
		}
		seen[n] = fmt.Sprint(stat.Inode, stat.Mode, stat.Uid, stat.Gid, stat.Mtime, stat.Ctime, latest)
	}
	return seen[0] != seen[1], nil
}

func (c *comparing) flush() error {
	if len(c.pending) == 0 {
		return nil
	}
	pending := c.pending
	c.pending = nil
	return c.each(pending)
}
