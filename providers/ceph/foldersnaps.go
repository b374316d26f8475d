//go:build cgo && ceph

package ceph

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/ceph/go-ceph/cephfs"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// snapFolder is the folder through which a snapshot's files are seen.
func (p *Provider) snapFolder(at moment) string {
	root := p.snapshotRoot(at.Path)
	return path.Join(root, ".snap", at.Snap, strings.TrimPrefix(at.Path, root))
}

// takeFolders takes snapshots of folders, one after the other, and puts them with those of images.
func (p *Provider) takeFolders(ctx context.Context, t *taking, taken []providers.Snapshot) (providers.SnapshotSet, error) {
	found := map[string]providers.Snapshot{}
	for _, s := range taken {
		found[s.VolumeID] = s
	}
	made := []moment{}
	for _, at := range t.folders {
		s, err := p.takeFolder(ctx, t, at)
		if err != nil {
			for _, m := range made {
				_ = p.deleteFolderSnapshot(context.WithoutCancel(ctx), t.op, m) // a repeat of the token finds it too
			}
			return providers.SnapshotSet{}, err
		}
		m, err := readSnapshot(t.op, s.Handle)
		if err != nil {
			return providers.SnapshotSet{}, err
		}
		made = append(made, m)
		found[at.String()] = s
	}
	set := providers.SnapshotSet{Atomic: len(t.order) == 1}
	var first, last time.Time
	for _, at := range t.order {
		s := found[at.String()]
		set.Snapshots = append(set.Snapshots, s)
		if first.IsZero() || s.Instant.Before(first) {
			first = s.Instant
		}
		if s.Instant.After(last) {
			last = s.Instant
		}
	}
	set.Skew = last.Sub(first)
	return set, nil
}

func (p *Provider) takeFolder(ctx context.Context, t *taking, at place) (providers.Snapshot, error) {
	var s providers.Snapshot
	root := p.snapshotRoot(at.Path)
	err := p.onFolder(ctx, t.op, at, root, func(_ context.Context, f *filesystem) error {
		if _, why, err := p.describeFolder(f, at); err != nil {
			return err
		} else if why != "" {
			return fault.Newf(t.op, fault.Busy, at.String(), "%s", why)
		}
		if err := p.unusedElsewhere(f, t, at); err != nil {
			return err
		}
		old, err := f.mark(root, folderSnapMark+t.name)
		if err != nil {
			return err
		}
		if old != nil && (old.Token != t.mark.Token || old.Request != t.mark.Request) {
			return fault.Newf(t.op, fault.Exists, at.String(), "the token was used for a different request")
		}
		if old == nil {
			if err := f.setMark(root, folderSnapMark+t.name, t.mark); err != nil {
				return err
			}
		}
		folder := path.Join(root, ".snap", t.name)
		if err := f.mount.MakeDir(folder, 0o755); err != nil && kindOf(err) != fault.Exists {
			return err
		}
		s, err = p.describeFolderSnapshot(f, moment{place: at, Snap: t.name})
		return err
	})
	return s, err
}

// unusedElsewhere refuses a token that took a snapshot of another folder.
func (p *Provider) unusedElsewhere(f *filesystem, t *taking, at place) error {
	all, err := p.volumeFolders(f)
	if err != nil {
		return err
	}
	for _, folder := range all {
		if folder == at.Path {
			continue
		}
		m, err := f.mark(p.snapshotRoot(folder), folderSnapMark+t.name)
		if gone(err) != nil {
			return err
		}
		if m != nil && m.Request != t.mark.Request {
			return fault.Newf(t.op, fault.Exists, folder, "the token was used for a different request")
		}
	}
	return nil
}

// describeFolderSnapshot describes a snapshot; its ID is what CephFS gives its inodes as device number.
func (p *Provider) describeFolderSnapshot(f *filesystem, at moment) (providers.Snapshot, error) {
	folder := p.snapFolder(at)
	stat, err := f.mount.Statx(folder, cephfs.StatxBasicStats, 0)
	if err != nil {
		return providers.Snapshot{}, err
	}
	if at.SnapID != 0 && at.SnapID != stat.Dev {
		return providers.Snapshot{}, fault.Newf("describe snapshot", fault.NotFound, at.String(), "the snapshot was deleted, and another one was given its name")
	}
	at.SnapID = stat.Dev
	root := p.snapshotRoot(at.Path)
	instant, err := f.stamp(path.Join(root, ".snap", at.Snap), "ceph.snap.btime")
	if err != nil {
		return providers.Snapshot{}, err
	}
	m, err := f.mark(root, folderSnapMark+at.Snap)
	if err != nil {
		return providers.Snapshot{}, err
	}
	s := providers.Snapshot{
		Handle: handleOf(at), ID: at.String(), VolumeID: at.place.String(), Content: providers.ContentFiles, Instant: instant, Ready: true,
		Parameters: map[string]string{filesystemParameter: at.FS},
	}
	if m != nil {
		s.Tags = m.Tags
	}
	s.Size, err = f.number(at.Path, maxBytes)
	return s, gone(err)
}

func (p *Provider) folderSnapshot(ctx context.Context, op string, at moment) (providers.Snapshot, error) {
	var s providers.Snapshot
	err := bounded(ctx, op, func(context.Context) error {
		f, err := p.allowedFS(op, at.place)
		if err != nil {
			return err
		}
		s, err = p.describeFolderSnapshot(f, at)
		return wrap(op, at.String(), p.here.note(err))
	})
	return s, err
}

func (p *Provider) listFolderSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	return p.eachFolder(ctx, func(f *filesystem, at place) error {
		names, err := f.mount.ListXattr(p.snapshotRoot(at.Path))
		if err != nil {
			return gone(err)
		}
		for _, attribute := range names {
			snap, own := strings.CutPrefix(attribute, folderSnapMark)
			if !own {
				continue
			}
			s, err := p.describeFolderSnapshot(f, moment{place: at, Snap: snap})
			if kindOf(err) == fault.NotFound && err != nil {
				continue // somebody has deleted it, or it was never taken
			}
			if err != nil {
				return err
			}
			if !matches(query, s.Tags, s.VolumeID) {
				continue
			}
			if err := each(s); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *Provider) deleteFolderSnapshot(ctx context.Context, op string, at moment) error {
	root := p.snapshotRoot(at.Path)
	err := p.onFolder(ctx, op, at.place, root, func(_ context.Context, f *filesystem) error {
		m, err := f.mark(root, folderSnapMark+at.Snap)
		if err != nil {
			return gone(err)
		}
		_, err = p.describeFolderSnapshot(f, at)
		there := err == nil
		if gone(err) != nil {
			return err
		}
		if m == nil && there {
			return fault.Newf(op, fault.Denied, at.String(), "Muster did not make this snapshot")
		}
		if there {
			if err := gone(f.mount.RemoveDir(path.Join(root, ".snap", at.Snap))); err != nil {
				return err
			}
		}
		if m == nil {
			return nil
		}
		return gone(f.mount.RemoveXattr(root, folderSnapMark+at.Snap))
	})
	if fault.Is(err, fault.NotFound) {
		return nil // of a cluster that is gone
	}
	return err
}
