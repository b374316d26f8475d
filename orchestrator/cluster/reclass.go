package cluster

import (
	"context"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reclass gives a claim another storage class. The class of a claim is immutable, so it is deleted and made again
// with its name, labels, owners and request; its PersistentVolume, which Rebind makes again, is told first to
// outlive it. It can be repeated: claim is what is made when an earlier attempt has deleted it already.
func (c *Client) Reclass(ctx context.Context, claim *corev1.PersistentVolumeClaim, class string) error {
	subject := claim.Namespace + "/" + claim.Name
	claims := c.typed.CoreV1().PersistentVolumeClaims(claim.Namespace)
	found, err := claims.Get(ctx, claim.Name, metav1.GetOptions{})
	if err == nil && found.DeletionTimestamp == nil && found.Spec.StorageClassName != nil && *found.Spec.StorageClassName == class {
		return nil
	}
	if err == nil {
		err = c.dropClaim(ctx, found)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return classify("delete claim", subject, err)
	}
	if _, err := claims.Create(ctx, freshClaim(claim, class), metav1.CreateOptions{}); err != nil {
		return classify("make claim", subject, err)
	}
	return nil
}

// freshClaim is a claim without what the cluster gave the old one, that waits for the old one's volume.
func freshClaim(claim *corev1.PersistentVolumeClaim, class string) *corev1.PersistentVolumeClaim {
	out := claim.DeepCopy()
	out.ObjectMeta = metav1.ObjectMeta{
		Name: claim.Name, Namespace: claim.Namespace, Labels: claim.Labels, Annotations: maps.Clone(claim.Annotations), OwnerReferences: claim.OwnerReferences,
	}
	maps.DeleteFunc(out.Annotations, func(key, _ string) bool { return strings.HasPrefix(key, "pv.kubernetes.io/") })
	out.Status = corev1.PersistentVolumeClaimStatus{}
	out.Spec.StorageClassName = &class
	return out
}

// dropClaim deletes the objects of a claim and of its volume. Finalizers go: kubelets that they wait for have not
// started.
func (c *Client) dropClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName != "" {
		pv, err := c.typed.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		if err == nil && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == claim.UID {
			err = c.dropVolume(ctx, pv)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	claims := c.typed.CoreV1().PersistentVolumeClaims(claim.Namespace)
	err := claims.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claim.UID))})
	if err != nil {
		return err
	}
	return awaitGone(ctx, "delete claim", claims, claim)
}
