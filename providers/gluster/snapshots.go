package gluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// maxDescription is what glusterd keeps of a snapshot's description, where its meta stands.
const maxDescription = 1000

// snapshotPrefix begins the names of snapshots that Muster made.
const snapshotPrefix = "muster-"

// Snapshot implements providers.Snapshots: one snapshot after the other, each activated so that it can be
// mounted and cloned.
func (p *provider) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	const op = "snapshot volumes"
	pool, err := p.snapshots(op)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	if request.Token == "" || len(request.Volumes) == 0 {
		return providers.SnapshotSet{}, fault.Newf(op, fault.Invalid, request.Token, "it takes a token and volumes")
	}
	if request.Atomic && len(request.Volumes) > 1 {
		return providers.SnapshotSet{}, fault.Newf(op, fault.Unsupported, request.Token, "Gluster takes no snapshots of several volumes at one instant")
	}
	m, err := newMeta(request.Token, request.Tags, request)
	if err != nil {
		return providers.SnapshotSet{}, fault.New(op, fault.Internal, request.Token, err)
	}
	release, err := p.locks.take(ctx, op, "snapshot "+request.Token)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	defer release()
	set := providers.SnapshotSet{Atomic: len(request.Volumes) == 1}
	for i, h := range request.Volumes {
		taken, err := pool.snapshot(ctx, op, h, i, m)
		if err != nil {
			return providers.SnapshotSet{}, errors.Join(err, pool.undo(ctx, op, err, set.Snapshots))
		}
		set.Snapshots = append(set.Snapshots, taken)
	}
	byInstant := func(a, b providers.Snapshot) int { return a.Instant.Compare(b.Instant) }
	set.Skew = slices.MaxFunc(set.Snapshots, byInstant).Instant.Sub(slices.MinFunc(set.Snapshots, byInstant).Instant)
	return set, nil
}

// undo deletes what a call made that can never succeed; what may is left for the next try.
func (p *pool) undo(ctx context.Context, op string, cause error, made []providers.Snapshot) error {
	if fault.KindOf(cause).Retryable() {
		return nil
	}
	var problems []error
	for _, s := range made {
		_, err := p.gluster(context.WithoutCancel(ctx), op, s.ID, "snapshot", "delete", s.ID)
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (p *pool) snapshot(ctx context.Context, op string, h providers.Handle, i int, m meta) (providers.Snapshot, error) {
	s, err := openVolume(op, h)
	if err != nil {
		return providers.Snapshot{}, err
	}
	v, err := p.same(ctx, op, s)
	if err != nil {
		return providers.Snapshot{}, err
	}
	thin, err := p.allThin(ctx, v)
	if err != nil {
		return providers.Snapshot{}, err
	}
	if !thin {
		return providers.Snapshot{}, fault.Newf(op, fault.Unsupported, v.Name, "%s", thinReason)
	}
	description, err := m.encode(op)
	if err == nil && len(description) > maxDescription {
		err = fault.Newf(op, fault.Invalid, v.Name, "token and tags are too long for a snapshot's description: %d bytes of at most %d", len(description), maxDescription)
	}
	if err != nil {
		return providers.Snapshot{}, err
	}
	name := fmt.Sprintf("%s%s-%d", snapshotPrefix, key(m.Token), i)
	taken, err := p.snapshotInfo(ctx, op, name)
	if fault.Is(err, fault.NotFound) {
		if _, err = p.gluster(ctx, op, v.Name, "snapshot", "create", name, v.Name, "no-timestamp", "description", description); err == nil || fault.Is(err, fault.Exists) {
			taken, err = p.snapshotInfo(ctx, op, name)
		}
	}
	if err != nil {
		return providers.Snapshot{}, err
	}
	have := decodeMeta(taken.Description)
	if have == nil {
		return providers.Snapshot{}, fault.Newf(op, fault.Exists, name, "a snapshot that Muster did not make has this name")
	}
	if err := have.same(op, name, m); err != nil {
		return providers.Snapshot{}, err
	}
	if !taken.active() {
		if _, err := p.gluster(ctx, op, name, "snapshot", "activate", name); err != nil && !strings.Contains(err.Error(), "already activated") {
			return providers.Snapshot{}, err
		}
		if taken, err = p.snapshotInfo(ctx, op, name); err != nil {
			return providers.Snapshot{}, err
		}
	}
	return p.describeSnapshot(ctx, op, taken)
}

func (s snapshotInfo) active() bool { return len(s.Volumes) == 1 && s.Volumes[0].Status == "Started" }

// instant is when it was taken. Glusterd writes its time without a zone, or with that of UTC.
func (s snapshotInfo) instant() time.Time {
	for _, layout := range []string{"2006-01-02 15:04:05 -0700", time.DateTime} {
		if at, err := time.ParseInLocation(layout, strings.TrimSpace(s.Created), time.UTC); err == nil {
			return at.UTC()
		}
	}
	return time.Time{}
}

func (p *pool) snapshotInfo(ctx context.Context, op, name string) (snapshotInfo, error) {
	r, err := p.gluster(ctx, op, name, "snapshot", "info", name)
	if err != nil {
		return snapshotInfo{}, err
	}
	for _, s := range r.Snapshots {
		if s.Name == name && len(s.Volumes) == 1 {
			return s, nil
		}
	}
	return snapshotInfo{}, fault.Newf(op, fault.NotFound, name, "gluster snapshot info does not know it")
}

// describeSnapshot takes size and parameters from the volume as it is now: glusterd tells none of a snapshot.
func (p *pool) describeSnapshot(ctx context.Context, op string, s snapshotInfo) (providers.Snapshot, error) {
	described := providers.Snapshot{
		ID: s.Name, VolumeID: s.Volumes[0].Origin, Content: providers.ContentFiles, Instant: s.instant(), Ready: s.active(),
		Tags: decodeMeta(s.Description).tags(), Handle: state{Snapshot: s.Name, ID: s.ID}.handle(),
	}
	v, err := p.info(ctx, op, described.VolumeID)
	if fault.Is(err, fault.NotFound) {
		return described, nil
	}
	if err != nil {
		return described, err
	}
	volume, err := p.describe(ctx, op, v, nil)
	described.Size, described.Parameters = volume.Size, volume.Parameters
	return described, err
}

// openSnapshot finds the snapshot of a handle.
func (p *pool) openSnapshot(ctx context.Context, op string, h providers.Handle) (snapshotInfo, error) {
	s, err := open(op, h, "snapshot", func(s state) string { return s.Snapshot })
	if err != nil {
		return snapshotInfo{}, err
	}
	taken, err := p.snapshotInfo(ctx, op, s.Snapshot)
	if err == nil && taken.ID != s.ID {
		return taken, fault.Newf(op, fault.NotFound, s.Snapshot, "it is gone; another snapshot has its name")
	}
	return taken, err
}

// SnapshotOf implements providers.Snapshots.
func (p *provider) SnapshotOf(ctx context.Context, h providers.Handle) (providers.Snapshot, error) {
	const op = "describe snapshot"
	pool, err := p.snapshots(op)
	if err != nil {
		return providers.Snapshot{}, err
	}
	s, err := pool.openSnapshot(ctx, op, h)
	if err != nil {
		return providers.Snapshot{}, err
	}
	return pool.describeSnapshot(ctx, op, s)
}

// ListSnapshots implements providers.Snapshots.
func (p *provider) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	const op = "list snapshots"
	pool, err := p.snapshots(op)
	if err != nil || query.Machine != "" {
		return err
	}
	r, err := pool.gluster(ctx, op, Name, "snapshot", "info")
	if err != nil {
		return err
	}
	for _, s := range r.Snapshots {
		m := decodeMeta(s.Description)
		if m == nil || !strings.HasPrefix(s.Name, snapshotPrefix) || len(s.Volumes) != 1 || !matches(m.tags(), query.Tags) ||
			len(query.IDs) > 0 && !slices.Contains(query.IDs, s.Volumes[0].Origin) {
			continue
		}
		described, err := pool.describeSnapshot(ctx, op, s)
		if err != nil {
			return err
		}
		if err := each(described); err != nil {
			return err
		}
	}
	return nil
}

// DeleteSnapshot implements providers.Snapshots. Clones live on: LVM keeps what they share.
func (p *provider) DeleteSnapshot(ctx context.Context, h providers.Handle) error {
	const op = "delete snapshot"
	pool, err := p.snapshots(op)
	if err != nil {
		return err
	}
	s, err := pool.openSnapshot(ctx, op, h)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if decodeMeta(s.Description).tags()[providers.TagRun] == "" {
		return fault.Newf(op, fault.Denied, s.Name, "Muster did not make it: its description has no tag %s", providers.TagRun)
	}
	if _, err := pool.gluster(ctx, op, s.Name, "snapshot", "delete", s.Name); !fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// prepareSnapshot is prepare for a snapshot.
func (p *pool) prepareSnapshot(ctx context.Context, op string, h providers.Handle, id string, r *record) error {
	s, err := p.openSnapshot(ctx, op, h)
	if err != nil {
		return err
	}
	if !s.active() {
		if _, err := p.gluster(ctx, op, s.Name, "snapshot", "activate", s.Name); err != nil && !strings.Contains(err.Error(), "already activated") {
			return err
		}
	}
	r.Volfile, r.Instant = "/snaps/"+s.Name+"/"+s.Volumes[0].Name, s.instant()
	v, err := p.info(ctx, op, s.Volumes[0].Origin)
	if fault.Is(err, fault.NotFound) || err == nil && (!v.on(changelogOn) || v.on(sharding) || r.Instant.IsZero()) {
		return nil // no mark
	}
	if err != nil {
		return err
	}
	// The instant has a resolution of a second, and clocks of peers differ.
	at := r.Instant.Unix()
	r.Mark = mark{Version: markVersion, Volume: v.ID, From: at - 2, Until: at + 2, Mount: id}.encode()
	return nil
}

// clone makes a volume of a snapshot; it shares the snapshot's blocks.
func (m making) clone(ctx context.Context) (providers.Volume, error) {
	s, err := m.pool.openSnapshot(ctx, m.op, m.request.Snapshot)
	if err != nil {
		return providers.Volume{}, err
	}
	v, err := m.pool.info(ctx, m.op, m.name)
	if fault.Is(err, fault.NotFound) {
		_, err = m.pool.gluster(ctx, m.op, m.name, "snapshot", "clone", m.name, s.Name)
		if err == nil || fault.Is(err, fault.Exists) {
			v, err = m.pool.info(ctx, m.op, m.name)
		}
	}
	if err != nil {
		return providers.Volume{}, err
	}
	return m.complete(ctx, v)
}
