package csi

import (
	"context"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/providers/fault"
)

const (
	allowModeChange   = "snapshot.storage.kubernetes.io/allow-volume-mode-change"
	deletionSecret    = "snapshot.storage.kubernetes.io/deletion-secret-name"
	deletionSecretNS  = "snapshot.storage.kubernetes.io/deletion-secret-namespace"
	classSecret       = "csi.storage.k8s.io/snapshotter-secret-name"
	classSecretNS     = "csi.storage.k8s.io/snapshotter-secret-namespace"
	beingDeleted      = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	groupBeingDeleted = "groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-being-deleted"
)

func importName(state snapshotState) string { return nameOf(kindImport, state.Driver, state.Snapshot) }

// imported makes a snapshot usable in the settings' namespace, wherever it was taken, and waits until it can
// be cloned. The volume mode may change: a filesystem's device is read as a device.
func (p *Provider) imported(ctx context.Context, op string, state snapshotState) (*snapshotv1.VolumeSnapshot, error) {
	name := importName(state)
	defer p.movers.lock(name)()
	if err := p.createImport(ctx, op, name, state); err != nil {
		return nil, err
	}
	var problem string
	w := wait{op: op, subject: state.id(), within: p.settings.VolumeTimeout, why: func(context.Context) string { return problem }}
	snapshot, err := await(ctx, w, p.snapshots.SnapshotV1().VolumeSnapshots(p.settings.Namespace), name, func(s *snapshotv1.VolumeSnapshot) (bool, error) {
		if s.DeletionTimestamp != nil {
			return false, fault.Newf(op, fault.Busy, state.id(), "its import is being deleted; try again")
		}
		if s.Status == nil || s.Status.ReadyToUse == nil || !*s.Status.ReadyToUse {
			problem = errorText(s.Status)
			return false, lastingProblem(op, state.id(), problem)
		}
		return true, nil
	})
	if fault.Is(err, fault.NotFound) { // nothing is left of an import of what is gone
		if problem := p.removeImport(ctx, op, state); problem != nil {
			return nil, problem
		}
	}
	return snapshot, err
}

func errorText(status *snapshotv1.VolumeSnapshotStatus) string {
	if status == nil || status.Error == nil || status.Error.Message == nil {
		return ""
	}
	return *status.Error.Message
}

// lastingProblem makes an error of a status text that no waiting helps against.
func lastingProblem(op, subject, text string) error {
	if text == "" {
		return nil
	}
	if kind := kindOfText(text); lasting(kind) {
		return fault.Newf(op, kind, subject, "%s", text)
	}
	return nil
}

func (p *Provider) createImport(ctx context.Context, op, name string, state snapshotState) error {
	annotations := map[string]string{allowModeChange: "true"}
	content := &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labelsOf(kindImport, ""), Annotations: annotations},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			VolumeSnapshotRef: corev1.ObjectReference{Kind: "VolumeSnapshot", Namespace: p.settings.Namespace, Name: name},
			DeletionPolicy:    snapshotv1.VolumeSnapshotContentRetain, Driver: state.Driver, SourceVolumeMode: &state.Mode,
			Source: snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &state.Snapshot},
		},
	}
	snapshot := &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labelsOf(kindImport, "")},
		Spec:       snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{VolumeSnapshotContentName: &name}},
	}
	class, err := p.snapshotClass(ctx, op, state.Driver)
	if err != nil && !fault.Is(err, fault.Unsupported) {
		return err
	}
	if class != nil {
		content.Spec.VolumeSnapshotClassName, snapshot.Spec.VolumeSnapshotClassName = &class.Name, &class.Name
		addSecret(annotations, class)
	}
	if _, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().Create(ctx, content, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return wrap(op, name, err)
	}
	if _, err := p.snapshots.SnapshotV1().VolumeSnapshots(p.settings.Namespace).Create(ctx, snapshot, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return wrap(op, name, err)
	}
	return nil
}

// addSecret names the secret that the driver needs to delete a snapshot, where the class names a fixed one.
func addSecret(annotations map[string]string, class *snapshotv1.VolumeSnapshotClass) {
	name, namespace := class.Parameters[classSecret], class.Parameters[classSecretNS]
	if name != "" && !strings.Contains(name+namespace, "${") {
		annotations[deletionSecret], annotations[deletionSecretNS] = name, namespace
	}
}

// removeImport removes an import and its mover; the snapshot stays in the storage.
func (p *Provider) removeImport(ctx context.Context, op string, state snapshotState) error {
	name := importName(state)
	if err := p.movers.remove(ctx, op, moverName(state)); err != nil {
		return err
	}
	clone := cloneName(moverName(state)) // goes with its mover, soon after
	if err := awaitGone(ctx, wait{op: op, subject: clone, within: p.settings.DeleteTimeout}, p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace), clone, nil); err != nil {
		return err
	}
	all := p.snapshots.SnapshotV1().VolumeSnapshots(p.settings.Namespace)
	if err := all.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return wrap(op, name, err)
	}
	// The controller keeps the source of a claim that it takes for pending, and looks again only when the
	// VolumeSnapshot changes: its view of the claims may have been an old one.
	turn := 0
	touch := func(ctx context.Context) {
		turn++
		patch := mergePatch(map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationTouch: quantityText(int64(turn))}}})
		_, _ = all.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}) // the wait tells when it was in vain
	}
	if err := awaitGone(ctx, wait{op: op, subject: name, within: p.settings.DeleteTimeout, nudge: touch}, all, name, nil); err != nil {
		return err
	}
	return p.removeContent(ctx, op, name, snapshotv1.VolumeSnapshotContentRetain)
}

func moverName(state snapshotState) string { return nameOf(kindMover, state.Driver, state.Snapshot) }
