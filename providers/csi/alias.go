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

// aliasOf are a PersistentVolume and a claim of a volume, both of one name, for each other.
func (p *Provider) aliasOf(name string, v volumeState) (*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) {
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
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: access, VolumeMode: &v.Mode, VolumeName: name, StorageClassName: &none,
			Resources: corev1.VolumeResourceRequirements{Requests: capacity},
		},
	}
	return pv, claim
}

// createAlias makes an alias and waits until its two are bound to each other.
func (p *Provider) createAlias(ctx context.Context, op, name string, v volumeState) error {
	pv, own := p.aliasOf(name, v)
	volumes, claims := p.kube.CoreV1().PersistentVolumes(), p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace)
	if _, err := volumes.Create(ctx, pv, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return wrap(op, name, err)
	}
	w := wait{op: op, subject: "claim " + name, within: p.settings.VolumeTimeout, why: func(ctx context.Context) string { return p.events(ctx, name) }}
	// Kubernetes' binder must know the volume before it sees the claim: else it looks at that again after 15 seconds.
	known, err := await(ctx, w, volumes, name, func(pv *corev1.PersistentVolume) (bool, error) {
		return pv.Status.Phase != "" && pv.Status.Phase != corev1.VolumePending, nil
	})
	if err != nil {
		return vanished(op, name, err)
	}
	if known.Status.Phase == corev1.VolumeReleased { // of a call that died between its claim and it: none is bound to it again
		if err := p.removeAlias(ctx, op, name); err != nil {
			return err
		}
		return p.createAlias(ctx, op, name, v)
	}
	if _, err := claims.Create(ctx, own, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return wrap(op, name, err)
	}
	_, err = await(ctx, w, claims, name, func(c *corev1.PersistentVolumeClaim) (bool, error) {
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
