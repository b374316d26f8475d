//go:build cgo && ceph

package ceph

import (
	"context"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// snapshotInfo is a snapshot as librbd tells it.
type snapshotInfo struct {
	rbd.SnapInfo
	grouped bool // of a group, and so without a name that librbd would take
	trashed bool // deleted, and kept for its clones
}

// snapshotsOf lists an image's snapshots, those of groups and those that only clones use among them.
func (i *image) snapshotsOf() ([]snapshotInfo, error) {
	names, err := i.GetSnapshotNames()
	if err != nil {
		return nil, err
	}
	var all []snapshotInfo
	for _, n := range names {
		kind, err := i.GetSnapNamespaceType(n.Id)
		if err != nil {
			if kindOf(err) == fault.NotFound {
				continue
			}
			return nil, err
		}
		all = append(all, snapshotInfo{n, kind == rbd.SnapNamespaceTypeGroup, kind == rbd.SnapNamespaceTypeTrash})
	}
	return all, nil
}

// find finds a snapshot by its ID; one of the same name that was made later is another.
func (i *image) find(op string, at moment) (snapshotInfo, error) {
	all, err := i.snapshotsOf()
	if err != nil {
		return snapshotInfo{}, wrap(op, at.String(), i.cluster.note(err))
	}
	for _, s := range all {
		if s.Id == at.SnapID && !s.trashed {
			return s, nil
		}
		if s.Name == at.Snap && s.Id != at.SnapID {
			return s, fault.Newf(op, fault.NotFound, at.String(), "the snapshot was deleted, and another one (ID %d, not %d) was given its name", s.Id, at.SnapID)
		}
	}
	return snapshotInfo{}, fault.Newf(op, fault.NotFound, at.String(), "somebody has deleted the snapshot (ID %d)", at.SnapID)
}

// openSnapshot opens an image as it was at a snapshot.
func (p *Provider) openSnapshot(op string, at moment) (*image, snapshotInfo, error) {
	i, err := p.openImage(op, at.place, reader)
	if err != nil {
		return nil, snapshotInfo{}, err
	}
	s, err := i.find(op, at)
	if err == nil {
		err = wrap(op, at.String(), i.cluster.note(i.SetSnapByID(s.Id)))
	}
	if err != nil {
		i.Close()
		return nil, s, err
	}
	i.shows = at
	return i, s, nil
}

// still refuses what was read of a snapshot, or compared with a base, that somebody has deleted meanwhile: Ceph
// gives whatever it has there now, and a reader is not told.
func (i *image) still(op string, base moment) error {
	fresh, err := i.cluster.open(op, i.shows.place, reader)
	if err != nil {
		return err
	}
	defer fresh.Close()
	if _, err := fresh.find(op, i.shows); err != nil || base.Snap == "" {
		return err
	}
	_, err = fresh.base(op, i.shows, base)
	return err
}

// SnapshotOf implements providers.Snapshots.
func (p *Provider) SnapshotOf(ctx context.Context, snapshot providers.Handle) (providers.Snapshot, error) {
	const op = "describe snapshot"
	at, err := readSnapshot(op, snapshot)
	if err != nil {
		return providers.Snapshot{}, err
	}
	if at.FS != "" {
		return p.folderSnapshot(ctx, op, at)
	}
	var s providers.Snapshot
	err = bounded(ctx, op, func(context.Context) error {
		i, err := p.openImage(op, at.place, reader)
		if err != nil {
			return err
		}
		defer i.Close()
		found, err := i.find(op, at)
		if err != nil {
			return err
		}
		s, err = i.describeSnapshot(at.Snap, found)
		return wrap(op, at.String(), i.cluster.note(err))
	})
	return s, err
}

// describeSnapshot is a snapshot with what its mark says.
func (i *image) describeSnapshot(snap string, info snapshotInfo) (providers.Snapshot, error) {
	m := i.marks.snapshots[snap]
	instant := m.Instant
	if instant.IsZero() {
		stamp, err := i.GetSnapTimestamp(info.Id)
		if err != nil {
			return providers.Snapshot{}, err
		}
		instant = time.Unix(stamp.Sec, stamp.Nsec).UTC()
	}
	v, err := i.describe()
	return providers.Snapshot{
		Handle: handleOf(moment{i.at, snap, info.Id}), ID: i.at.String() + "@" + snap, VolumeID: v.ID, Content: providers.ContentBlocks,
		Size: int64(info.Size), Instant: instant, Ready: true, Tags: m.Tags, Parameters: v.Parameters,
	}, err
}

// ListSnapshots implements providers.Snapshots.
func (p *Provider) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	const op = "list snapshots"
	if query.Machine != "" {
		return nil
	}
	return guarded(ctx, op, each, func(ctx context.Context, each func(providers.Snapshot) error) error {
		err := p.eachImage(ctx, op, func(i *image) (func() error, error) {
			own, err := i.ownSnapshots(query)
			return func() error {
				for _, s := range own {
					if err := each(s); err != nil {
						return err
					}
				}
				return nil
			}, err
		})
		if err != nil {
			return err
		}
		return p.listFolderSnapshots(ctx, query, each)
	})
}

// ownSnapshots are an image's snapshots that Muster made and the query wants.
func (i *image) ownSnapshots(query providers.Query) ([]providers.Snapshot, error) {
	if len(i.marks.snapshots) == 0 {
		return nil, nil
	}
	all, err := i.snapshotsOf()
	if err != nil {
		return nil, err
	}
	var own []providers.Snapshot
	for snap, m := range i.marks.snapshots {
		info, there := m.among(snap, all)
		if !there || !matches(query, m.Tags, i.at.String()) {
			continue
		}
		s, err := i.describeSnapshot(snap, info)
		if err != nil {
			return nil, err
		}
		own = append(own, s)
	}
	return own, nil
}

// among finds the snapshot that a mark is about.
func (m snapshotMark) among(snap string, all []snapshotInfo) (snapshotInfo, bool) {
	for _, s := range all {
		if s.trashed {
			continue
		}
		if m.SnapID == s.Id || m.SnapID == 0 && m.Group == nil && s.Name == snap {
			return s, true
		}
	}
	return snapshotInfo{}, false
}

// DeleteSnapshot implements providers.Snapshots. Clones go on living: Ceph keeps a snapshot that has some in
// a trash of its own, and removes it with the last of them.
func (p *Provider) DeleteSnapshot(ctx context.Context, snapshot providers.Handle) error {
	const op = "delete snapshot"
	at, err := readSnapshot(op, snapshot)
	if err != nil {
		return err
	}
	if at.FS != "" {
		return p.deleteFolderSnapshot(ctx, op, at)
	}
	return bounded(ctx, op, func(ctx context.Context) error {
		c, err := p.cluster(op, at.FSID)
		if err != nil {
			return gone(err)
		}
		if err := c.allowed(op, at.place); err != nil {
			return err
		}
		return p.exclusive(ctx, op, c, at.place, at.Image, func(ctx context.Context) error {
			return wrap(op, at.String(), gone(c.deleteSnapshot(ctx, op, at)))
		})
	})
}

// deleteSnapshot deletes a snapshot, and the image when it was made for the snapshot alone.
func (c *cluster) deleteSnapshot(ctx context.Context, op string, at moment) error {
	whole := false
	err := c.insist(ctx, "delete "+at.String(), func() (err error) {
		whole, err = c.dropSnapshot(ctx, op, at)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return c.finishDeletion(ctx, at.place)
	}
	if err != nil || !whole {
		return err
	}
	return c.remove(ctx, at.place)
}

func (c *cluster) dropSnapshot(ctx context.Context, op string, at moment) (whole bool, err error) {
	i, err := c.open(op, at.place, writer)
	if err != nil {
		return false, err
	}
	defer i.Close()
	m, own := i.marks.snapshots[at.Snap]
	whole = i.marks.volume != nil && i.marks.volume.Copy
	if whole {
		i.marks.volume.State = deleting
		if err := i.setMark(ctx, volumeKey, i.marks.volume); err != nil {
			return false, err
		}
	}
	if own {
		return whole, i.drop(at.Snap, m, at.SnapID)
	}
	if _, err := i.find(op, at); err != nil {
		return whole, gone(err)
	}
	return false, fault.Newf(op, fault.Denied, at.String(), "Muster did not make this snapshot: delete it with rbd snap rm if it must go")
}

// drop removes a snapshot with its companion and its mark. Each part may be gone already. ID 0 means that it
// is not known: the snapshot's name then tells, which derives from a token.
func (i *image) drop(snap string, m snapshotMark, id uint64) error {
	all, err := i.snapshotsOf()
	if err != nil {
		return err
	}
	for _, s := range all {
		mine := s.Id == id || id == 0 && s.Name == snap || m.Group != nil && (s.Name == companion(snap) || id == 0 && i.inGroup(s, snap))
		if !mine || s.trashed && i.cloned(s.Id) { // such a one goes with its last clone
			continue
		}
		if err := gone(i.removeSnapshot(s)); err != nil {
			return err
		}
	}
	if m.SnapID != 0 && m.SnapID != id {
		return nil // the mark is another snapshot's
	}
	if m.Group != nil {
		if err := i.cluster.disband(*m.Group); err != nil {
			return err
		}
	}
	if err := gone(i.RemoveMetadata(snapshotMarkKey + snap)); err != nil {
		return err
	}
	return i.cluster.forget(snap, i.at)
}

func (i *image) removeSnapshot(s snapshotInfo) error {
	if !s.grouped && !s.trashed {
		protected, err := i.GetSnapshot(s.Name).IsProtected()
		if err == nil && protected {
			err = i.GetSnapshot(s.Name).Unprotect()
		}
		if err != nil {
			return err
		}
	}
	return i.RemoveSnapByID(s.Id)
}

// cloned reports whether a snapshot has clones.
func (i *image) cloned(id uint64) bool {
	if i.SetSnapByID(id) != nil {
		return true
	}
	defer i.SetSnapshot(rbd.NoSnapshot) //nolint:errcheck // an image without a snapshot set can always be read
	children, err := i.ListChildrenAttributes()
	return err != nil || len(children) > 0
}

// purge removes snapshots that were deleted, have no clones and are still there: a deletion that was cut off
// leaves them.
func (i *image) purge() error {
	all, err := i.snapshotsOf()
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.trashed && !i.cloned(s.Id) {
			if err := gone(i.RemoveSnapByID(s.Id)); err != nil {
				return err
			}
		}
	}
	return nil
}
