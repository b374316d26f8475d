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

// SnapshotOf implements providers.Snapshots. In another cluster, or when the objects are gone and the
// storage still has the snapshot, it imports it: nothing else tells whether it is there.
func (p *Provider) SnapshotOf(ctx context.Context, handle providers.Handle) (providers.Snapshot, error) {
	const op = "describe snapshot"
	if err := p.ready(op); err != nil {
		return providers.Snapshot{}, err
	}
	state, err := decodeSnapshot(op, handle)
	if err != nil {
		return providers.Snapshot{}, err
	}
	content, err := p.contentFor(ctx, op, state)
	if err != nil {
		return providers.Snapshot{}, err
	}
	if content == nil {
		if _, err := p.imported(ctx, op, state); err != nil {
			return providers.Snapshot{}, err
		}
		return snapshotFrom(op, state, true, nil)
	}
	if isDeleted(content) {
		return providers.Snapshot{}, fault.Newf(op, fault.NotFound, state.id(), "it has been deleted")
	}
	return p.describeSnapshot(op, content)
}

// contentFor is the content by which the snapshot was taken, nil when it is not here.
func (p *Provider) contentFor(ctx context.Context, op string, state snapshotState) (*snapshotv1.VolumeSnapshotContent, error) {
	content, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, state.Content, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !isUnserved(err) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap(op, state.id(), err)
	}
	if content.Spec.Driver != state.Driver || handleOf(content) != state.Snapshot {
		return nil, nil
	}
	return content, nil
}

// ListSnapshots implements providers.Snapshots.
func (p *Provider) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	const op = "list snapshots"
	if err := p.ready(op); err != nil {
		return err
	}
	selector := selectorOf(kindSnapshot, "").LabelSelector
	list := func(ctx context.Context, options metav1.ListOptions) (*snapshotv1.VolumeSnapshotContentList, error) {
		options.LabelSelector = selector
		return p.snapshots.SnapshotV1().VolumeSnapshotContents().List(ctx, options)
	}
	var found []providers.Snapshot
	err := eachPage(ctx, list, func(page *snapshotv1.VolumeSnapshotContentList) error {
		for i := range page.Items {
			content := &page.Items[i]
			if isDeleted(content) || handleOf(content) == "" || !p.serves(content.Spec.Driver) || p.beingMade(content) {
				continue
			}
			snapshot, err := p.describeSnapshot(op, content)
			if err != nil {
				return err
			}
			found = append(found, snapshot)
		}
		return nil
	})
	if err != nil {
		return wrap(op, "VolumeSnapshotContents", err)
	}
	for _, snapshot := range found {
		if !matches(snapshot.Tags, query.Tags) || len(query.IDs) > 0 && !slices.Contains(query.IDs, snapshot.VolumeID) {
			continue
		}
		if err := each(snapshot); err != nil {
			return err
		}
	}
	return nil
}

// beingMade tells whether a content has no record yet, and a call that would write it can still be at work.
func (p *Provider) beingMade(content *snapshotv1.VolumeSnapshotContent) bool {
	_, kept := recordOf(content)
	return !kept && p.config.Now().Sub(content.CreationTimestamp.Time) < time.Duration(p.settings.SnapshotTimeout)
}

// DeleteSnapshot implements providers.Snapshots. A snapshot of a group is marked; the storage deletes the
// group when all of it is marked.
func (p *Provider) DeleteSnapshot(ctx context.Context, handle providers.Handle) error {
	const op = "delete snapshot"
	if err := p.ready(op); err != nil {
		return err
	}
	state, err := decodeSnapshot(op, handle)
	if err != nil {
		return err
	}
	content, err := p.contentFor(ctx, op, state)
	if err != nil {
		return err
	}
	if content == nil {
		return p.deleteForeign(ctx, op, state)
	}
	if r, _ := recordOf(content); r.Group != "" {
		if err := p.movers.remove(ctx, op, moverName(state)); err != nil {
			return err
		}
		return p.deleteMember(ctx, op, content, r)
	}
	if err := p.removeImport(ctx, op, state); err != nil {
		return err
	}
	return p.deleteContent(ctx, op, content.Spec.VolumeSnapshotRef.Namespace, content.Spec.VolumeSnapshotRef.Name, content.Name)
}

// deleteForeign deletes a snapshot that has no object here but its import.
func (p *Provider) deleteForeign(ctx context.Context, op string, state snapshotState) error {
	_, err := p.imported(ctx, op, state)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.movers.remove(ctx, op, moverName(state)); err != nil {
		return err
	}
	name := importName(state)
	return p.deleteContent(ctx, op, p.settings.Namespace, name, name)
}

// deleteContent deletes a VolumeSnapshot, where it still is, its content, and the snapshot in the storage.
func (p *Provider) deleteContent(ctx context.Context, op, namespace, name, content string) error {
	if err := p.askDeletion(ctx, op, namespace, name, content); err != nil {
		return err
	}
	return p.removeContent(ctx, op, content, snapshotv1.VolumeSnapshotContentDelete)
}

// askDeletion asks the controller to delete a snapshot with its objects.
func (p *Provider) askDeletion(ctx context.Context, op, namespace, name, content string) error {
	all := p.snapshots.SnapshotV1().VolumeSnapshotContents()
	// The controller acts on the mark; it sets it itself as long as there is a VolumeSnapshot.
	patch := mergePatch(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{beingDeleted: "yes", annotationDeleted: "yes"}},
		"spec":     map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentDelete},
	})
	if _, err := all.Patch(ctx, content, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return wrap(op, content, err)
	}
	err := p.snapshots.SnapshotV1().VolumeSnapshots(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return wrap(op, namespace+"/"+name, err)
	}
	if err := all.Delete(ctx, content, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return wrap(op, content, err)
	}
	return nil
}

// removeContent deletes a content and waits until it is gone; with the policy Delete the snapshot goes first.
func (p *Provider) removeContent(ctx context.Context, op, name string, policy snapshotv1.DeletionPolicy) error {
	all := p.snapshots.SnapshotV1().VolumeSnapshotContents()
	if err := all.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return wrap(op, name, err)
	}
	var problem string
	w := wait{op: op, subject: name, within: p.settings.DeleteTimeout, why: func(context.Context) string { return problem }}
	return awaitGone(ctx, w, all, name, func(c *snapshotv1.VolumeSnapshotContent) error {
		problem = contentError(c)
		if policy == snapshotv1.VolumeSnapshotContentRetain || problem == "" {
			return nil
		}
		if kind := kindOfText(problem); kind == fault.Busy || kind == fault.Denied {
			return fault.Newf(op, kind, name, "%s", problem)
		}
		return nil
	})
}

// removeTaken removes what a failed call of the token made.
func (p *Provider) removeTaken(ctx context.Context, op string, members []member) error {
	problems := []error{p.removeGroup(ctx, op, members)}
	for _, m := range members {
		namespace := m.claim.namespace
		if namespace == "" {
			continue
		}
		snapshot, err := p.snapshots.SnapshotV1().VolumeSnapshots(namespace).Get(ctx, m.name(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			problems = append(problems, wrap(op, m.name(), err))
			continue
		}
		if snapshot.Status != nil && snapshot.Status.BoundVolumeSnapshotContentName != nil {
			problems = append(problems, p.removeOne(ctx, op, snapshot, *snapshot.Status.BoundVolumeSnapshotContentName))
			continue
		}
		problems = append(problems, wrap(op, m.name(), p.snapshots.SnapshotV1().VolumeSnapshots(namespace).Delete(ctx, m.name(), metav1.DeleteOptions{})))
	}
	return errors.Join(problems...)
}

// removeOne removes a snapshot of a failed call. One that the storage has not taken yet it only asks to be removed:
// the sidecar goes on until the driver says for good whether there is one, and deletes it then.
func (p *Provider) removeOne(ctx context.Context, op string, snapshot *snapshotv1.VolumeSnapshot, name string) error {
	content, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return wrap(op, name, err)
	}
	if err == nil && handleOf(content) == "" {
		return p.askDeletion(ctx, op, snapshot.Namespace, snapshot.Name, name)
	}
	return p.deleteContent(ctx, op, snapshot.Namespace, snapshot.Name, name)
}
