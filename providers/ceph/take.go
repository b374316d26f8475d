//go:build cgo && ceph

package ceph

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Snapshot implements providers.Snapshots. Images are snapshotted at one instant when they can be grouped;
// folders of CephFS, and what can't be grouped, one after the other.
func (p *Provider) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	const op = "snapshot volumes"
	t, err := p.taking(op, request)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	var set providers.SnapshotSet
	err = bounded(ctx, op, func(ctx context.Context) error {
		if len(t.images) == 0 {
			set, err = p.takeFolders(ctx, t, nil)
			return err
		}
		return p.exclusive(ctx, op, p.here, t.images[0], t.name, func(ctx context.Context) error {
			set, err = t.run(ctx)
			if err == nil && len(t.folders) > 0 {
				set, err = p.takeFolders(ctx, t, set.Snapshots)
			}
			return wrap(op, "", p.here.note(err))
		})
	})
	return set, err
}

// taking is one call of Snapshot.
type taking struct {
	provider *Provider
	op       string
	name     string // of the snapshots
	request  providers.SnapshotRequest
	mark     mark
	images   []place
	folders  []place
	order    []place // all, as they were asked for
}

func (p *Provider) taking(op string, request providers.SnapshotRequest) (*taking, error) {
	if err := checkToken(op, request.Token); err != nil {
		return nil, err
	}
	if len(request.Volumes) == 0 {
		return nil, fault.Newf(op, fault.Invalid, "", "no volume is named")
	}
	t := &taking{
		provider: p, op: op, name: nameOf("", request.Token), request: request,
		mark: mark{Token: request.Token, Request: digest(request), State: writing, Tags: tagged(request.Tags, request.Token)},
	}
	for _, h := range request.Volumes {
		at, err := readVolume(op, h)
		if err != nil {
			return nil, err
		}
		if _, err := p.cluster(op, at.FSID); err != nil {
			return nil, err
		}
		if slices.Contains(t.order, at) {
			return nil, fault.Newf(op, fault.Invalid, at.String(), "the volume stands there twice")
		}
		t.order = append(t.order, at)
		if at.FS != "" {
			t.folders = append(t.folders, at)
		} else {
			t.images = append(t.images, at)
		}
	}
	if request.Atomic && len(t.folders) > 0 && len(t.order) > 1 {
		return nil, fault.Newf(op, fault.Unsupported, t.folders[0].String(), "CephFS has no snapshots of several folders at one instant: take them without atomic")
	}
	return t, nil
}

// run takes the snapshots of the images, or finds those that the token made.
func (t *taking) run(ctx context.Context) (providers.SnapshotSet, error) {
	var images []*image
	defer func() {
		for _, i := range images {
			i.Close()
		}
	}()
	for _, at := range t.images {
		i, err := t.provider.openImage(t.op, at, writer)
		if err != nil {
			return providers.SnapshotSet{}, err
		}
		images = append(images, i)
		if why := i.marks.unfinished(); why != "" {
			return providers.SnapshotSet{}, fault.Newf(t.op, fault.Busy, at.String(), "%s", why)
		}
	}
	made, err := t.earlier(images)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	if !made {
		if err := t.take(ctx, images); err != nil {
			return providers.SnapshotSet{}, errors.Join(err, t.undo(images))
		}
	}
	return t.finish(ctx, images)
}

// earlier reports whether an earlier call has taken all snapshots. A set that was cut off is removed: the
// snapshots of a set that is made in two tries would not belong together.
func (t *taking) earlier(images []*image) (bool, error) {
	if err := t.provider.here.recorded(t.op, t.name, t.mark.Request); err != nil {
		return false, err
	}
	done, marked := 0, 0
	for _, i := range images {
		m, there := i.marks.snapshots[t.name]
		if !there {
			continue
		}
		marked++
		if m.Token != t.mark.Token || m.Request != t.mark.Request {
			return false, fault.Newf(t.op, fault.Exists, i.at.String(), "the token was used for a different request")
		}
		if m.State == complete {
			done++
		}
	}
	if done > 0 {
		return true, nil
	}
	if marked == 0 {
		return false, nil
	}
	return false, t.undo(images)
}

// undo removes what was made for a set.
func (t *taking) undo(images []*image) error {
	var problems []error
	grouped := false
	for _, i := range images {
		m := i.marks.snapshots[t.name]
		if m.Group != nil && !grouped {
			grouped = true
			problems = append(problems, i.cluster.unmake(*m.Group, images))
		}
	}
	for _, i := range images {
		if m, there := i.marks.snapshots[t.name]; there {
			problems = append(problems, i.drop(t.name, m, 0))
			delete(i.marks.snapshots, t.name)
		}
	}
	return errors.Join(problems...)
}

// take writes what it is going to do into every image, and takes the snapshots.
func (t *taking) take(ctx context.Context, images []*image) error {
	var g *group
	why := "one volume"
	if len(images) > 1 {
		why = groupable(images)
	}
	switch {
	case why == "":
		g = &group{Pool: images[0].at.Pool, Namespace: images[0].at.Namespace, Name: t.name}
		for _, i := range images {
			g.Images = append(g.Images, i.at)
		}
	case len(images) > 1 && t.request.Atomic:
		return fault.Newf(t.op, fault.Unsupported, "", "these volumes have no snapshot of one instant: %s", why)
	}
	if err := t.provider.here.record(t.name, t.mark.Request, t.images); err != nil {
		return err
	}
	for order, i := range images {
		m := snapshotMark{mark: t.mark, Group: g, Order: order}
		m.Image = i.at.ID
		i.marks.snapshots[t.name] = m
		if err := i.setMark(ctx, snapshotMarkKey+t.name, m); err != nil {
			return err
		}
	}
	if g != nil {
		return images[0].cluster.takeGroup(*g, images)
	}
	for n, i := range images {
		if err := ctx.Err(); err != nil {
			return err
		}
		providers.Report(ctx, providers.Progress{Done: int64(n), Total: int64(len(images)), Text: "snapshot " + i.at.String()})
		if _, err := i.CreateSnapshot(t.name); err != nil {
			return err
		}
	}
	return nil
}

// finish writes into every image that the set is complete, and describes it.
func (t *taking) finish(ctx context.Context, images []*image) (providers.SnapshotSet, error) {
	set := providers.SnapshotSet{Atomic: len(t.folders) == 0}
	infos := make([]snapshotInfo, len(images))
	var first, last time.Time
	for n, i := range images {
		var err error
		if infos[n], err = i.taken(t.op, t.name); err != nil {
			return set, err
		}
		stamp, err := i.GetSnapTimestamp(infos[n].Id)
		if err != nil {
			return set, err
		}
		at := time.Unix(stamp.Sec, stamp.Nsec).UTC()
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
		if m := i.marks.snapshots[t.name]; m.State != complete {
			m.Instant = at
			i.marks.snapshots[t.name] = m
		}
	}
	for n, i := range images {
		m := i.marks.snapshots[t.name]
		m.Atomic = m.Group != nil || len(images) == 1
		set.Atomic = set.Atomic && m.Atomic
		if m.Group != nil && m.State != complete {
			m.Instant = first // of them all
		}
		if err := t.seal(ctx, i, m, infos[n].Id); err != nil {
			return set, err
		}
		s, err := i.describeSnapshot(t.name, infos[n])
		if err != nil {
			return set, err
		}
		set.Snapshots = append(set.Snapshots, s)
	}
	if !set.Atomic {
		set.Skew = last.Sub(first)
	}
	return set, nil
}

func (t *taking) seal(ctx context.Context, i *image, m snapshotMark, id uint64) error {
	if m.State == complete {
		return nil
	}
	m.State, m.SnapID = complete, id
	i.marks.snapshots[t.name] = m
	return i.setMark(ctx, snapshotMarkKey+t.name, m)
}

// taken finds the snapshot of a set on an image.
func (i *image) taken(op, snap string) (snapshotInfo, error) {
	all, err := i.snapshotsOf()
	if err != nil {
		return snapshotInfo{}, err
	}
	m := i.marks.snapshots[snap]
	for _, s := range all {
		if s.trashed || m.SnapID != 0 && m.SnapID != s.Id {
			continue
		}
		if m.SnapID == s.Id || m.Group == nil && s.Name == snap || m.Group != nil && i.inGroup(s, snap) {
			return s, nil
		}
	}
	return snapshotInfo{}, fault.Newf(op, fault.NotFound, i.at.String()+"@"+snap, "somebody has deleted a snapshot that an earlier call made: take another token")
}
