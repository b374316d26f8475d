package csi

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
)

// claim is a PersistentVolumeClaim of a volume.
type claim struct {
	namespace, name string
	alias           bool // of ours, for as long as a call needs it
}

// claimOf is the claim that holds a volume, or a new alias. mode is that of the alias: a filesystem can be
// had as a device.
func (p *Provider) claimOf(ctx context.Context, op string, views []*corev1.PersistentVolume, token string) (claim, error) {
	for _, pv := range views {
		ref := pv.Spec.ClaimRef
		if ref != nil && pv.Status.Phase == corev1.VolumeBound && ref.Namespace != p.settings.Namespace {
			return claim{namespace: ref.Namespace, name: ref.Name}, nil
		}
	}
	state := stateOf(best(views))
	name := nameOf(kindAlias, token, state.id())
	return claim{namespace: p.settings.Namespace, name: name, alias: true}, p.createAlias(ctx, op, name, state)
}

// createAlias makes a PersistentVolume and a claim of a volume, both of one name, and waits until they are
// bound to each other.
func (p *Provider) createAlias(ctx context.Context, op, name string, v volumeState) error {
	none := ""
	access := v.AccessModes
	if len(access) == 0 {
		access = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	labels := labelsOf(kindAlias, "")
	capacity := corev1.ResourceList{corev1.ResourceStorage: quantity(v.Size)}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: v.Source.DeepCopy()}, Capacity: capacity,
			AccessModes: access, VolumeMode: &v.Mode, NodeAffinity: v.Affinity,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef:                      &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: p.settings.Namespace, Name: name},
		},
	}
	own := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: access, VolumeMode: &v.Mode, VolumeName: name, StorageClassName: &none,
			Resources: corev1.VolumeResourceRequirements{Requests: capacity},
		},
	}
	if _, err := p.kube.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return wrap(op, name, err)
	}
	claims := p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace)
	if _, err := claims.Create(ctx, own, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return wrap(op, name, err)
	}
	w := wait{op: op, subject: "claim " + name, within: p.settings.VolumeTimeout, why: func(ctx context.Context) string { return p.events(ctx, name) }}
	_, err := await(ctx, w, claims, name, func(c *corev1.PersistentVolumeClaim) (bool, error) {
		if c.DeletionTimestamp != nil {
			return false, fault.Newf(op, fault.Busy, name, "the claim is being deleted; try again")
		}
		return c.Status.Phase == corev1.ClaimBound, nil
	})
	return vanished(op, name, err)
}

// removeAlias removes an alias; the volume stays.
func (p *Provider) removeAlias(ctx context.Context, op, name string) error {
	if err := p.removeMover(ctx, op, name); err != nil {
		return err
	}
	if err := p.removeClaim(ctx, op, name); err != nil {
		return err
	}
	volumes := p.kube.CoreV1().PersistentVolumes()
	err := volumes.Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return wrap(op, name, err)
	}
	return awaitGone(ctx, wait{op: op, subject: name, within: p.settings.DeleteTimeout}, volumes, name, nil)
}
