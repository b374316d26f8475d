package guard

import (
	"context"
	"slices"

	"github.com/musterdr/muster/providers"
)

func (g *Guard) checkSnapshot(op string, s providers.Snapshot) error {
	if err := g.checkDescribed(op, described{
		handle: s.Handle, id: s.ID, names: []string{s.VolumeID, s.Region}, tags: s.Tags, parameters: s.Parameters,
	}); err != nil {
		return err
	}
	if s.Content != providers.ContentBlocks && s.Content != providers.ContentFiles {
		return g.lie(op, "%s has the content %.80q", s.ID, s.Content)
	}
	if s.Size < 0 {
		return g.lie(op, "%s has %d bytes", s.ID, s.Size)
	}
	g.snapshots.put(s.Handle, thing{id: s.ID, size: s.Size})
	return nil
}

// snapshot makes a call that answers with a snapshot.
func (g *Guard) snapshot(ctx context.Context, op string, capability providers.Capability, call func(context.Context) (providers.Snapshot, error)) (providers.Snapshot, error) {
	if err := g.needs(op, capability); err != nil {
		return providers.Snapshot{}, err
	}
	s, err := one(ctx, g, op, call)
	if err == nil {
		err = g.checkSnapshot(op, s)
	}
	if err != nil {
		return providers.Snapshot{}, err
	}
	return s, nil
}

// Snapshot implements providers.Snapshots.
func (g *Guard) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	const op = "snapshot volumes"
	if err := g.needs(op, providers.CapSnapshot); err != nil {
		return providers.SnapshotSet{}, err
	}
	if request.Atomic && len(request.Volumes) > 1 {
		if err := g.needs(op, providers.CapGroup); err != nil {
			return providers.SnapshotSet{}, err
		}
	}
	set, err := one(ctx, g, op, func(ctx context.Context) (providers.SnapshotSet, error) { return g.inner.Snapshot(ctx, request) })
	if err == nil {
		err = g.checkSet(ctx, op, request, set)
	}
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	return set, nil
}

func (g *Guard) checkSet(ctx context.Context, op string, request providers.SnapshotRequest, set providers.SnapshotSet) error {
	switch {
	case len(set.Snapshots) != len(request.Volumes):
		return g.lie(op, "%d snapshots of %d volumes", len(set.Snapshots), len(request.Volumes))
	case request.Atomic && !set.Atomic:
		return g.lie(op, "the snapshots are not of one instant, which was asked for")
	case set.Skew < 0 || set.Atomic && set.Skew != 0:
		return g.lie(op, "a skew of %s (one instant: %t)", set.Skew, set.Atomic)
	}
	once := g.once(op)
	for i, s := range set.Snapshots {
		if err := g.checkSnapshot(op, s); err != nil {
			return err
		}
		if err := once(s.ID); err != nil {
			return err
		}
		if err := g.checkOf(ctx, op, request.Volumes[i], s); err != nil {
			return err
		}
	}
	return nil
}

// checkOf wants a snapshot to be that of the volume.
func (g *Guard) checkOf(ctx context.Context, op string, volume providers.Handle, s providers.Snapshot) error {
	known, ok := g.volumes.get(volume)
	if !ok {
		described, err := g.Volume(ctx, volume)
		if err != nil {
			return err
		}
		known = thing{id: described.ID, size: described.Size}
	}
	if s.VolumeID != known.id {
		return g.lie(op, "%s is a snapshot of %s, and stands in the place of one of %s", s.ID, s.VolumeID, known.id)
	}
	return nil
}

// SnapshotOf implements providers.Snapshots.
func (g *Guard) SnapshotOf(ctx context.Context, snapshot providers.Handle) (providers.Snapshot, error) {
	return g.snapshot(ctx, "describe snapshot", providers.CapSnapshot, func(ctx context.Context) (providers.Snapshot, error) {
		return g.inner.SnapshotOf(ctx, snapshot)
	})
}

// ListSnapshots implements providers.Snapshots.
func (g *Guard) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	const op = "list snapshots"
	if err := g.needs(op, providers.CapSnapshot); err != nil {
		return err
	}
	once := g.once(op)
	check := func(s providers.Snapshot) error {
		if err := g.checkSnapshot(op, s); err != nil {
			return err
		}
		if !matches(query.Tags, s.Tags) || len(query.IDs) > 0 && !slices.Contains(query.IDs, s.VolumeID) {
			return g.lie(op, "%s is not what was asked for", s.ID)
		}
		return once(s.ID)
	}
	return list(ctx, g, op, func(ctx context.Context, each func(providers.Snapshot) error) error {
		return g.inner.ListSnapshots(ctx, query, each)
	}, check, each)
}

// DeleteSnapshot implements providers.Snapshots.
func (g *Guard) DeleteSnapshot(ctx context.Context, snapshot providers.Handle) error {
	const op = "delete snapshot"
	if err := g.needs(op, providers.CapSnapshot); err != nil {
		return err
	}
	return g.remove(ctx, op, snapshot, g.inner.DeleteSnapshot)
}

// CopySnapshot implements providers.Snapshots.
func (g *Guard) CopySnapshot(ctx context.Context, request providers.CopyRequest) (providers.Snapshot, error) {
	return g.snapshot(ctx, "copy snapshot", providers.CapCopy, func(ctx context.Context) (providers.Snapshot, error) {
		return g.inner.CopySnapshot(ctx, request)
	})
}
