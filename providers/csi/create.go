package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Create implements providers.Volumes.
func (p *Provider) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	const op = "create volume"
	if err := p.ready(op); err != nil {
		return providers.Volume{}, err
	}
	v, err := p.planVolume(ctx, op, request)
	if err != nil {
		return providers.Volume{}, err
	}
	defer p.movers.lock("volume " + request.Token)()
	done, err := p.made(ctx, op, v)
	if err != nil || done != nil {
		return p.madeVolume(ctx, op, done, err)
	}
	if !request.Snapshot.IsZero() {
		if err := p.fromSnapshot(ctx, op, request, &v); err != nil {
			return providers.Volume{}, err
		}
	}
	volume, err := p.provision(ctx, op, v, nil)
	if err != nil {
		err = errors.Join(err, p.abandon(ctx, op, v, err))
	}
	return volume, err
}

func (p *Provider) madeVolume(ctx context.Context, op string, pv *corev1.PersistentVolume, err error) (providers.Volume, error) {
	if err != nil {
		return providers.Volume{}, err
	}
	return p.volume(ctx, op, volumeID(pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle))
}

// fromSnapshot makes the plan a clone.
func (p *Provider) fromSnapshot(ctx context.Context, op string, request providers.CreateRequest, v *plan) error {
	state, err := decodeSnapshot(op, request.Snapshot)
	if err != nil {
		return err
	}
	if v.size == 0 {
		v.size = state.Size
	}
	if v.size < state.Size {
		return fault.Newf(op, fault.Invalid, state.id(), "%d bytes are too few for a snapshot of %d", v.size, state.Size)
	}
	if v.class.Provisioner != state.Driver {
		return fault.Newf(op, fault.Unsupported, v.class.Name, "its provisioner is %s; only %s can clone its snapshot", v.class.Provisioner, state.Driver)
	}
	imported, err := p.imported(ctx, op, state)
	if err != nil {
		return err
	}
	v.source = snapshotSource(imported.Name)
	return nil
}

func snapshotSource(name string) *corev1.TypedLocalObjectReference {
	group := "snapshot.storage.k8s.io"
	return &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: name}
}

// made is the record of a volume that an earlier call of the same token completed.
func (p *Provider) made(ctx context.Context, op string, v plan) (*corev1.PersistentVolume, error) {
	list, err := p.kube.CoreV1().PersistentVolumes().List(ctx, selectorOf(kindVolume, v.token))
	if err != nil {
		return nil, wrap(op, "PersistentVolumes", err)
	}
	for i := range list.Items {
		r, ok := recordOf(&list.Items[i])
		if !ok || list.Items[i].DeletionTimestamp != nil {
			continue
		}
		if r.Request != v.request {
			return nil, fault.Newf(op, fault.Exists, v.token, "this token made a different volume: %s", list.Items[i].Name)
		}
		if !r.Incomplete {
			return &list.Items[i], p.removeClaim(ctx, op, nameOf(kindVolume, v.token))
		}
	}
	return nil, p.refuseOther(ctx, op, v)
}

// refuseOther refuses a token whose claim is for another request.
func (p *Provider) refuseOther(ctx context.Context, op string, v plan) error {
	claim, err := p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace).Get(ctx, nameOf(kindVolume, v.token), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return wrap(op, v.token, err)
	}
	if r, ok := recordOf(claim); !ok || r.Request != v.request {
		return fault.Newf(op, fault.Exists, v.token, "this token is making a different volume: claim %s", claim.Name)
	}
	return nil
}

// provision makes the volume through a claim, lets fill work on it with a mover, and keeps the volume
// when the claim goes. Without fill a mover runs only where the class waits for a consumer.
func (p *Provider) provision(ctx context.Context, op string, v plan, fill func(ctx context.Context, mover string) error) (providers.Volume, error) {
	name := nameOf(kindVolume, v.token)
	r := record{Request: v.request, Token: v.token, Tags: v.tags, Namespace: p.settings.Namespace, Incomplete: true}
	if err := p.createClaim(ctx, op, name, v, r); err != nil {
		return providers.Volume{}, err
	}
	mover := moverPod{name: name, claim: name, mode: v.mode, zone: v.zone}
	if waitsForConsumer(v.class) {
		if err := p.startMover(ctx, op, mover); err != nil {
			return providers.Volume{}, err
		}
	}
	pv, err := p.boundVolume(ctx, op, name)
	if err != nil {
		return providers.Volume{}, err
	}
	if err := p.keep(ctx, op, pv.Name, r); err != nil {
		return providers.Volume{}, err
	}
	if fill != nil {
		// Only now: the scheduler puts off a pod whose claim has no volume.
		if err := p.startMover(ctx, op, mover); err != nil {
			return providers.Volume{}, err
		}
		if err := fill(ctx, name); err != nil {
			return providers.Volume{}, err
		}
	}
	if err := p.removeMover(ctx, op, name); err != nil {
		return providers.Volume{}, err
	}
	r.Incomplete = false
	if err := p.keep(ctx, op, pv.Name, r); err != nil {
		return providers.Volume{}, err
	}
	if err := p.removeClaim(ctx, op, name); err != nil {
		return providers.Volume{}, err
	}
	return p.madeVolume(ctx, op, pv, nil)
}

func waitsForConsumer(class *storagev1.StorageClass) bool {
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

func (p *Provider) createClaim(ctx context.Context, op, name string, v plan, r record) error {
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labelsOf(kindVolume, v.token), Annotations: map[string]string{annotationRecord: r.encode()}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: v.access, StorageClassName: &v.class.Name, VolumeMode: &v.mode, DataSource: v.source,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity(v.size)}},
		},
	}
	_, err := p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return wrap(op, name, err)
}

// boundVolume waits until the claim has its volume.
func (p *Provider) boundVolume(ctx context.Context, op, claim string) (*corev1.PersistentVolume, error) {
	w := wait{op: op, subject: "claim " + claim, within: p.settings.VolumeTimeout, why: func(ctx context.Context) string { return p.events(ctx, claim) }}
	bound, err := await(ctx, w, p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace), claim, func(c *corev1.PersistentVolumeClaim) (bool, error) {
		if c.DeletionTimestamp != nil {
			return false, fault.Newf(op, fault.Busy, claim, "the claim is being deleted; try again")
		}
		if c.Status.Phase == corev1.ClaimLost {
			return false, fault.Newf(op, fault.NotFound, claim, "the claim has lost its volume")
		}
		return c.Status.Phase == corev1.ClaimBound, nil
	})
	if err != nil {
		return nil, vanished(op, claim, err)
	}
	pv, err := p.kube.CoreV1().PersistentVolumes().Get(ctx, bound.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, wrap(op, bound.Spec.VolumeName, err)
	}
	if pv.Spec.CSI == nil {
		return nil, fault.Newf(op, fault.Unsupported, pv.Name, "the storage class does not make CSI volumes")
	}
	return pv, nil
}

// keep makes a PersistentVolume the volume's record: it stays when its claim goes. It keeps its claimRef, so
// that no stranger's claim is bound to it, and because the snapshot controller expects every view to have one.
func (p *Provider) keep(ctx context.Context, op, name string, r record) error {
	return p.patchVolume(ctx, op, name, corev1.PersistentVolumeReclaimRetain, labelsOf(kindVolume, r.Token), r.encode())
}

func (p *Provider) patchVolume(ctx context.Context, op, name string, policy corev1.PersistentVolumeReclaimPolicy, labels map[string]string, record string) error {
	metadata := map[string]any{}
	if labels != nil {
		metadata = map[string]any{"labels": labels, "annotations": map[string]string{annotationRecord: record}}
	}
	patch := mergePatch(map[string]any{"metadata": metadata, "spec": map[string]any{"persistentVolumeReclaimPolicy": policy}})
	_, err := p.kube.CoreV1().PersistentVolumes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return wrap(op, name, err)
}

func mergePatch(patch map[string]any) []byte {
	raw, err := json.Marshal(patch)
	if err != nil { // maps of strings always encode
		panic(err)
	}
	return raw
}

// removeClaim deletes a claim of ours and waits until it is gone.
func (p *Provider) removeClaim(ctx context.Context, op, name string) error {
	claims := p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace)
	err := claims.Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return wrap(op, name, err)
	}
	w := wait{op: op, subject: "claim " + name, within: p.settings.DeleteTimeout, why: func(ctx context.Context) string { return p.events(ctx, name) }}
	return awaitGone(ctx, w, claims, name, nil)
}

// DeleteVolume implements providers.Volumes: the driver deletes it when its record asks for that.
func (p *Provider) DeleteVolume(ctx context.Context, handle providers.Handle) error {
	const op = "delete volume"
	if err := p.ready(op); err != nil {
		return err
	}
	state, err := decodeVolume(op, handle)
	if err != nil {
		return err
	}
	all, err := p.look(ctx, op, false)
	if err != nil {
		return err
	}
	views := all.views[state.id()]
	if len(views) == 0 {
		return nil
	}
	own := recordView(views)
	if own == nil {
		return fault.Newf(op, fault.Denied, state.id(), "Muster did not make this volume: delete its claim, or its PersistentVolume, by hand")
	}
	for _, pv := range views {
		if pv.Labels[labelKind] == kindAlias { // of a call that died: nobody snapshots what is to be deleted
			if err := p.removeAlias(ctx, op, pv.Name); err != nil {
				return err
			}
			continue
		}
		if pv != own && pv.Status.Phase == corev1.VolumeBound {
			return fault.Newf(op, fault.Busy, state.id(), "claim %s/%s uses it through %s", pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name, pv.Name)
		}
	}
	return p.deleteRecord(ctx, op, own)
}

// deleteRecord removes the claim, so that the volume counts as released, and waits for the driver.
func (p *Provider) deleteRecord(ctx context.Context, op string, pv *corev1.PersistentVolume) error {
	if claim := pv.Spec.ClaimRef; claim != nil && claim.Namespace == p.settings.Namespace {
		if err := p.removeMover(ctx, op, claim.Name); err != nil {
			return err
		}
		if err := p.removeClaim(ctx, op, claim.Name); err != nil {
			return err
		}
	}
	err := p.patchVolume(ctx, op, pv.Name, corev1.PersistentVolumeReclaimDelete, nil, "")
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var last *corev1.PersistentVolume
	w := wait{op: op, subject: pv.Name, within: p.settings.DeleteTimeout, why: func(context.Context) string {
		return fmt.Sprintf("the PersistentVolume is %s: %s", last.Status.Phase, last.Status.Message)
	}}
	return awaitGone(ctx, w, p.kube.CoreV1().PersistentVolumes(), pv.Name, func(current *corev1.PersistentVolume) error {
		last = current
		return nil
	})
}

// detached is a context for cleaning up: it goes on when the caller has given up.
func (p *Provider) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Duration(p.settings.DeleteTimeout))
}

// vanished makes of a claim that is gone in the middle of a call what it is: another process serves the token.
func vanished(op, subject string, err error) error {
	if fault.Is(err, fault.NotFound) {
		return fault.Newf(op, fault.Busy, subject, "another process serves the same token; try again: %w", err)
	}
	return err
}

// abandon removes what a failed call made. It does not when the caller has given up, or when what failed may
// be because another process took the token over: then the next call finds it.
func (p *Provider) abandon(ctx context.Context, op string, v plan, failed error) error {
	if ctx.Err() != nil || fault.KindOf(failed).Retryable() {
		return nil
	}
	ctx, cancel := p.detached(ctx)
	defer cancel()
	name := nameOf(kindVolume, v.token)
	if err := p.removeMover(ctx, op, name); err != nil {
		return err
	}
	if err := p.removeHalf(ctx, op, v); err != nil {
		return err
	}
	return p.removeClaim(ctx, op, name)
}
