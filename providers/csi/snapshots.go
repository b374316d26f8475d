package csi

import (
	"context"
	"errors"
	"slices"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// member is one volume of a request.
type member struct {
	volume volumeState
	claim  claim
	record record
}

// name is the VolumeSnapshot's, when it is not a group that names it.
func (m member) name() string {
	return nameOf(kindSnapshot, m.record.Token, quantityText(int64(m.record.Index)))
}

// Snapshot implements providers.Snapshots.
func (p *Provider) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	const op = "snapshot volumes"
	if err := p.ready(op); err != nil {
		return providers.SnapshotSet{}, err
	}
	members, err := p.members(op, request)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	defer p.movers.lock("snapshot " + request.Token)()
	contents, err := p.taken(ctx, op, members)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	if contents != nil {
		err = p.releaseLeft(ctx, op, members)
	} else {
		contents, err = p.take(ctx, op, members, request.Atomic)
	}
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	return p.set(op, contents)
}

func (p *Provider) members(op string, request providers.SnapshotRequest) ([]member, error) {
	if request.Token == "" || len(request.Volumes) == 0 {
		return nil, fault.Newf(op, fault.Invalid, request.Token, "a snapshot needs a token and a volume")
	}
	var members []member
	parts := []string{}
	for i, handle := range request.Volumes {
		volume, err := decodeVolume(op, handle)
		if err != nil {
			return nil, err
		}
		if slices.Contains(parts, volume.id()) {
			return nil, fault.Newf(op, fault.Invalid, volume.id(), "the volume stands there twice")
		}
		parts = append(parts, volume.id())
		members = append(members, member{volume: volume, record: record{
			Token: request.Token, Index: i, Count: len(request.Volumes), Tags: tagsOf(request.Tags, request.Token),
		}})
	}
	for i := range members {
		members[i].record.Request = digest(parts...)
	}
	return members, nil
}

// taken are the snapshots that an earlier call of the token completed; nil when there is none, or not all.
func (p *Provider) taken(ctx context.Context, op string, members []member) ([]*snapshotv1.VolumeSnapshotContent, error) {
	list, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().List(ctx, selectorOf(kindSnapshot, members[0].record.Token))
	if err != nil {
		return nil, wrap(op, "VolumeSnapshotContents", err)
	}
	found := make([]*snapshotv1.VolumeSnapshotContent, len(members))
	n := 0
	for i := range list.Items {
		content := &list.Items[i]
		r, ok := recordOf(content)
		if !ok || isDeleted(content) {
			continue
		}
		if r.Request != members[0].record.Request || r.Index >= len(found) {
			return nil, fault.Newf(op, fault.Exists, r.Token, "this token took snapshots of other volumes: %s", content.Name)
		}
		if handleOf(content) != "" && found[r.Index] == nil {
			found[r.Index] = content
			n++
		}
	}
	if n < len(members) {
		return nil, p.refuseOtherSnapshots(ctx, op, members)
	}
	return found, nil
}

// refuseOtherSnapshots looks at what has no content yet.
func (p *Provider) refuseOtherSnapshots(ctx context.Context, op string, members []member) error {
	list, err := p.snapshots.SnapshotV1().VolumeSnapshots("").List(ctx, selectorOf(kindSnapshot, members[0].record.Token))
	if err != nil {
		return wrap(op, "VolumeSnapshots", err)
	}
	for i := range list.Items {
		if r, ok := recordOf(&list.Items[i]); ok && r.Request != members[0].record.Request && list.Items[i].DeletionTimestamp == nil {
			return fault.Newf(op, fault.Exists, r.Token, "this token is taking snapshots of other volumes: %s/%s", list.Items[i].Namespace, list.Items[i].Name)
		}
	}
	return nil
}

// take takes all snapshots, at one instant where that can be. What it needs for that goes in any case, and
// of a failed try nothing stays.
func (p *Provider) take(ctx context.Context, op string, members []member, atomic bool) (contents []*snapshotv1.VolumeSnapshotContent, err error) {
	all, err := p.look(ctx, op, false)
	if err != nil {
		return nil, err
	}
	for i := range members {
		m := &members[i]
		views := all.views[m.volume.id()]
		if len(views) == 0 {
			return nil, fault.Newf(op, fault.NotFound, m.volume.id(), "no PersistentVolume of the cluster is this volume")
		}
		m.volume = stateOf(best(views))
		volume := m.volume
		m.record.Volume = &volume
	}
	defer func() {
		cleaning, cancel := p.detached(ctx)
		defer cancel()
		if err != nil && ctx.Err() == nil && !fault.Is(err, fault.Busy) {
			err = errors.Join(err, p.removeTaken(cleaning, op, members))
		}
		if problem := p.releaseClaims(cleaning, op, members); err == nil {
			err = problem
		}
	}()
	for i := range members {
		if members[i].claim, err = p.claimOf(ctx, op, all.views[members[i].volume.id()], members[i].record.Token); err != nil {
			return nil, err
		}
	}
	if len(members) > 1 {
		contents, err = p.takeGroup(ctx, op, members)
		if !fault.Is(err, fault.Unsupported) || atomic {
			return contents, err
		}
	}
	return p.takeEach(ctx, op, members)
}

func (p *Provider) releaseClaims(ctx context.Context, op string, members []member) error {
	var problems []error
	for _, m := range members {
		if m.claim.alias {
			problems = append(problems, p.removeAlias(ctx, op, m.claim.name))
		}
	}
	return errors.Join(problems...)
}

// releaseLeft removes the aliases of a call that died after it had taken everything.
func (p *Provider) releaseLeft(ctx context.Context, op string, members []member) error {
	for i, m := range members {
		members[i].claim = claim{namespace: p.settings.Namespace, name: nameOf(kindAlias, m.record.Token, m.volume.id()), alias: true}
	}
	return p.releaseClaims(ctx, op, members)
}

// takeEach asks for all the snapshots, and then waits for each.
func (p *Provider) takeEach(ctx context.Context, op string, members []member) ([]*snapshotv1.VolumeSnapshotContent, error) {
	for _, m := range members {
		if err := p.ask(ctx, op, m); err != nil {
			return nil, err
		}
	}
	var contents []*snapshotv1.VolumeSnapshotContent
	for _, m := range members {
		content, err := p.awaitSnapshot(ctx, op, m)
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

func (p *Provider) ask(ctx context.Context, op string, m member) error {
	class, err := p.snapshotClass(ctx, op, m.volume.Source.Driver)
	if err != nil {
		return err
	}
	snapshot := &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.name(), Labels: labelsOf(kindSnapshot, m.record.Token), Annotations: map[string]string{annotationRecord: m.record.encode()},
		},
		Spec: snapshotv1.VolumeSnapshotSpec{
			VolumeSnapshotClassName: &class.Name, Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &m.claim.name},
		},
	}
	_, err = p.snapshots.SnapshotV1().VolumeSnapshots(m.claim.namespace).Create(ctx, snapshot, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return wrap(op, m.claim.namespace+"/"+m.name(), err)
}

// awaitSnapshot waits until the storage has taken the snapshot. From the moment it has a content it is kept.
func (p *Provider) awaitSnapshot(ctx context.Context, op string, m member) (*snapshotv1.VolumeSnapshotContent, error) {
	var problem string
	w := wait{op: op, subject: m.volume.id(), within: p.settings.SnapshotTimeout, why: func(context.Context) string {
		if problem == "" {
			return "the VolumeSnapshot has got no content: does the snapshot controller run?"
		}
		return problem
	}}
	named, err := await(ctx, w, p.snapshots.SnapshotV1().VolumeSnapshots(m.claim.namespace), m.name(), func(s *snapshotv1.VolumeSnapshot) (bool, error) {
		if s.DeletionTimestamp != nil {
			return false, fault.Newf(op, fault.Busy, m.volume.id(), "the snapshot of a failed call with this token is being deleted; try again")
		}
		problem = errorText(s.Status)
		if s.Status != nil && s.Status.BoundVolumeSnapshotContentName != nil {
			return true, nil
		}
		return false, lastingProblem(op, m.volume.id(), problem)
	})
	if err != nil {
		return nil, vanished(op, m.volume.id(), err)
	}
	return p.awaitContent(ctx, w, *named.Status.BoundVolumeSnapshotContentName, m.record, &problem)
}

// annotationBeingCreated is the sidecar's, for as long as a driver works on a content. To take it away, the sidecar
// writes all annotations as it has last seen them, and so undoes what others have added meanwhile
// (external-snapshotter, removeAnnVolumeSnapshotBeingCreated).
const annotationBeingCreated = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"

// awaitContent keeps a content and waits until it has the snapshot's handle and instant, and our record for good.
func (p *Provider) awaitContent(ctx context.Context, w wait, name string, r record, problem *string) (*snapshotv1.VolumeSnapshotContent, error) {
	all := p.snapshots.SnapshotV1().VolumeSnapshotContents()
	patch := mergePatch(map[string]any{
		"metadata": map[string]any{"labels": labelsOf(kindSnapshot, r.Token), "annotations": map[string]string{annotationRecord: r.encode()}},
		"spec":     map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentRetain},
	})
	keep := func() error {
		_, err := all.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		return wrap(w.op, name, err)
	}
	if err := keep(); err != nil {
		return nil, err
	}
	return await(ctx, w, all, name, func(c *snapshotv1.VolumeSnapshotContent) (bool, error) {
		_, working := c.Annotations[annotationBeingCreated]
		switch _, kept := recordOf(c); {
		case !kept:
			return false, keep()
		case handleOf(c) != "" && c.Status.CreationTime != nil && !working:
			return true, nil
		}
		*problem = contentError(c)
		return false, lastingProblem(w.op, w.subject, *problem)
	})
}

func handleOf(c *snapshotv1.VolumeSnapshotContent) string {
	if c.Status == nil || c.Status.SnapshotHandle == nil {
		return ""
	}
	return *c.Status.SnapshotHandle
}

func contentError(c *snapshotv1.VolumeSnapshotContent) string {
	if c.Status == nil || c.Status.Error == nil || c.Status.Error.Message == nil {
		return ""
	}
	return *c.Status.Error.Message
}

func isDeleted(c *snapshotv1.VolumeSnapshotContent) bool {
	return c.DeletionTimestamp != nil || c.Annotations[annotationDeleted] != ""
}

// set describes what was taken.
func (p *Provider) set(op string, contents []*snapshotv1.VolumeSnapshotContent) (providers.SnapshotSet, error) {
	var out providers.SnapshotSet
	first, last := time.Time{}, time.Time{}
	out.Atomic = true
	for _, content := range contents {
		snapshot, err := p.describeSnapshot(op, content)
		if err != nil {
			return providers.SnapshotSet{}, err
		}
		if first.IsZero() || snapshot.Instant.Before(first) {
			first = snapshot.Instant
		}
		if snapshot.Instant.After(last) {
			last = snapshot.Instant
		}
		if r, _ := recordOf(content); r.Group == "" && len(contents) > 1 {
			out.Atomic = false
		}
		out.Snapshots = append(out.Snapshots, snapshot)
	}
	if !out.Atomic {
		out.Skew = last.Sub(first)
	}
	return out, nil
}

// describeSnapshot tells what a content of ours holds.
func (p *Provider) describeSnapshot(op string, content *snapshotv1.VolumeSnapshotContent) (providers.Snapshot, error) {
	r, ok := recordOf(content)
	if !ok || r.Volume == nil {
		return providers.Snapshot{}, fault.Newf(op, fault.Corrupt, content.Name, "its annotation %s cannot be read", annotationRecord)
	}
	state := snapshotState{
		Driver: content.Spec.Driver, Snapshot: handleOf(content), Volume: r.Volume.Source.VolumeHandle, Content: content.Name,
		Namespace: content.Spec.VolumeSnapshotRef.Namespace, Name: content.Spec.VolumeSnapshotRef.Name, Group: r.Group,
		Mode: r.Volume.Mode, Size: r.Volume.Size, Class: r.Volume.Class, Files: p.contentOf(*r.Volume) == providers.ContentFiles,
		Parameters: parametersOf(*r.Volume),
	}
	if content.Status != nil && content.Status.CreationTime != nil {
		state.Instant = time.Unix(0, *content.Status.CreationTime).UTC()
	}
	ready := content.Status != nil && content.Status.ReadyToUse != nil && *content.Status.ReadyToUse
	return snapshotFrom(op, state, ready, r.Tags)
}

func snapshotFrom(op string, state snapshotState, ready bool, tags map[string]string) (providers.Snapshot, error) {
	handle, err := encodeHandle(op, state)
	if err != nil {
		return providers.Snapshot{}, err
	}
	content := providers.ContentBlocks
	if state.Files {
		content = providers.ContentFiles
	}
	return providers.Snapshot{
		Handle: handle, ID: state.id(), VolumeID: volumeID(state.Driver, state.Volume), Content: content, Size: state.Size,
		Instant: state.Instant, Ready: ready, Tags: tags, Parameters: state.Parameters,
	}, nil
}
