package mem

import (
	"context"
	"maps"
	"slices"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Snapshot implements providers.Provider.
func (p *provider) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	const op = "snapshot volumes"
	b, err := p.ready(op)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	if request.Token == "" || len(request.Volumes) == 0 {
		return providers.SnapshotSet{}, fault.Newf(op, fault.Invalid, request.Token, "it takes a token and at least one volume")
	}
	ids := make([]string, len(request.Volumes))
	for i, h := range request.Volumes {
		if ids[i], err = identify(op, "volume", h); err != nil {
			return providers.SnapshotSet{}, err
		}
		if slices.Contains(ids[:i], ids[i]) {
			return providers.SnapshotSet{}, fault.Newf(op, fault.Invalid, ids[i], "the volume stands there twice")
		}
	}
	taking := &taking{backend: b, op: op, request: request, by: by(request.Token, request), ids: ids}
	return taking.run(ctx)
}

// taking is one call of Snapshot.
type taking struct {
	backend *Backend
	op      string
	request providers.SnapshotRequest
	by      made
	ids     []string
}

func (t *taking) run(ctx context.Context) (providers.SnapshotSet, error) {
	var set []*snapshot
	var s state
	if err := t.backend.view(ctx, &s); err != nil {
		return providers.SnapshotSet{}, err
	}
	set, err := t.found(&s)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	if set == nil {
		if set, err = t.take(ctx, &s); err != nil {
			return providers.SnapshotSet{}, err
		}
	}
	result := providers.SnapshotSet{Atomic: true}
	for _, n := range set {
		result.Snapshots = append(result.Snapshots, describeSnapshot(n))
		result.Atomic = result.Atomic && (n.Content == providers.ContentBlocks || len(set) == 1)
	}
	if !result.Atomic {
		result.Skew = set[len(set)-1].Instant.Sub(set[0].Instant)
	}
	return result, nil
}

// found are the snapshots that an earlier call made; all of them, or none.
func (t *taking) found(s *state) ([]*snapshot, error) {
	var set []*snapshot
	for _, n := range s.Snapshots {
		same, err := n.same(t.op, t.by)
		if err != nil {
			return nil, err
		}
		if same {
			set = append(set, n)
		}
	}
	slices.SortFunc(set, func(a, b *snapshot) int { return a.Position - b.Position })
	if len(set) > 0 && len(set) < len(t.ids) {
		return nil, fault.Newf(t.op, fault.NotFound, t.request.Token, "somebody has deleted %d of the %d snapshots that an earlier call made: take another token", len(t.ids)-len(set), len(t.ids))
	}
	return set, nil
}

// take copies the trees of file volumes, which takes time, and then takes all snapshots in one step.
func (t *taking) take(ctx context.Context, s *state) ([]*snapshot, error) {
	copies := make([]*treeCopy, len(t.ids))
	defer func() {
		for _, c := range copies {
			c.end()
		}
	}()
	for i, id := range t.ids {
		v := s.Volumes[id]
		if v == nil {
			return nil, gone(t.op, id)
		}
		if v.Content == providers.ContentBlocks {
			continue
		}
		if t.request.Atomic && len(t.ids) > 1 {
			return nil, fault.Newf(t.op, fault.Unsupported, id, "file volumes have no snapshots of one instant: take them without atomic")
		}
		var err error
		if copies[i], err = t.backend.copyTree(ctx, v.Tree); err != nil {
			return nil, err
		}
	}
	return t.commit(ctx, copies)
}

func (t *taking) commit(ctx context.Context, copies []*treeCopy) ([]*snapshot, error) {
	var set []*snapshot
	err := t.backend.update(ctx, func(s *state) error {
		var err error
		if set, err = t.found(s); set != nil || err != nil {
			if err == nil {
				err = errUnchanged
			}
			return err
		}
		now := t.backend.now()
		for i, id := range t.ids {
			v := s.Volumes[id]
			if v == nil {
				return gone(t.op, id)
			}
			n := &snapshot{
				made: t.by, ID: "snap-" + random(), Volume: id, Position: i, Content: v.Content, Size: v.Size, Image: v.Image,
				Instant: now, Tags: tagged(t.request.Tags, t.request.Token), Parameters: maps.Clone(v.Parameters),
			}
			if c := copies[i]; c != nil {
				n.Tree, n.Instant, n.Mark = c.draft.id, c.instant, "mark-"+n.ID
				s.Marks[n.Mark] = &mark{Volume: id, Folders: c.folders}
			}
			s.Snapshots[n.ID] = n
			set = append(set, n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, n := range set {
		for _, c := range copies {
			c.keepIf(n.Tree)
		}
	}
	return set, nil
}

func describeSnapshot(n *snapshot) providers.Snapshot {
	return providers.Snapshot{
		Handle: handle("snapshot", n.ID), ID: n.ID, VolumeID: n.Volume, Content: n.Content, Size: n.Size, Instant: n.Instant,
		Ready: true, Region: n.Region, Tags: maps.Clone(n.Tags), Parameters: maps.Clone(n.Parameters),
	}
}

// snapshotOf finds a snapshot by its handle.
func (b *Backend) snapshotOf(ctx context.Context, op string, h providers.Handle) (snapshot, error) {
	id, err := identify(op, "snapshot", h)
	if err != nil {
		return snapshot{}, err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return snapshot{}, err
	}
	n := s.Snapshots[id]
	if n == nil {
		return snapshot{}, gone(op, id)
	}
	return *n, nil
}

// SnapshotOf implements providers.Provider.
func (p *provider) SnapshotOf(ctx context.Context, h providers.Handle) (providers.Snapshot, error) {
	const op = "describe snapshot"
	b, err := p.ready(op)
	if err != nil {
		return providers.Snapshot{}, err
	}
	n, err := b.snapshotOf(ctx, op, h)
	if err != nil {
		return providers.Snapshot{}, err
	}
	return describeSnapshot(&n), nil
}

// ListSnapshots implements providers.Provider.
func (p *provider) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	b, err := p.ready("list snapshots")
	if err != nil {
		return err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return err
	}
	for _, n := range sorted(s.Snapshots) {
		if !ours(n.Tags) || !matches(query.Tags, n.Tags) || len(query.IDs) > 0 && !slices.Contains(query.IDs, n.Volume) ||
			query.Machine != "" && (s.Volumes[n.Volume] == nil || s.Volumes[n.Volume].Machine != query.Machine) {
			continue
		}
		if ctx.Err() != nil {
			return ended(ctx, "list snapshots")
		}
		if err := each(describeSnapshot(n)); err != nil {
			return err
		}
	}
	return nil
}

// DeleteSnapshot implements providers.Provider.
func (p *provider) DeleteSnapshot(ctx context.Context, h providers.Handle) error {
	const op = "delete snapshot"
	b, err := p.ready(op)
	if err != nil {
		return err
	}
	id, err := identify(op, "snapshot", h)
	if err != nil {
		return err
	}
	return b.update(ctx, func(s *state) error {
		n := s.Snapshots[id]
		if n == nil {
			return errUnchanged
		}
		if !ours(n.Tags) {
			return fault.Newf(op, fault.Denied, id, "Muster did not make it: it has no tag %s", providers.TagRun)
		}
		delete(s.Snapshots, id)
		return b.sweep(s)
	})
}

// CopySnapshot implements providers.Provider. A copy has its own identity and shares the image, or the tree.
func (p *provider) CopySnapshot(ctx context.Context, request providers.CopyRequest) (providers.Snapshot, error) {
	const op = "copy snapshot"
	b, err := p.ready(op)
	if err != nil {
		return providers.Snapshot{}, err
	}
	region := request.Target["region"]
	if request.Token == "" || len(request.Target) != 1 || !slices.Contains(p.regions, region) {
		return providers.Snapshot{}, fault.Newf(op, fault.Invalid, request.Token, "it takes a token and the target {\"region\": one of %q}", p.regions)
	}
	source, err := identify(op, "snapshot", request.Snapshot)
	if err != nil {
		return providers.Snapshot{}, err
	}
	var copied *snapshot
	err = b.update(ctx, func(s *state) error {
		copied, err = s.copySnapshot(op, source, region, request)
		return err
	})
	if err != nil {
		return providers.Snapshot{}, err
	}
	return describeSnapshot(copied), nil
}

func (s *state) copySnapshot(op, source, region string, request providers.CopyRequest) (*snapshot, error) {
	by := by(request.Token, request)
	for _, n := range s.Snapshots {
		if same, err := n.same(op, by); same || err != nil {
			return n, err
		}
	}
	n := s.Snapshots[source]
	if n == nil {
		return nil, gone(op, source)
	}
	copied := *n
	copied.made, copied.ID, copied.Position, copied.Region = by, "snap-"+random(), 0, region
	copied.Tags = tagged(request.Tags, request.Token)
	s.Snapshots[copied.ID] = &copied
	return &copied, nil
}
