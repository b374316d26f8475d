package cluster

import (
	"context"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/musterdr/muster/providers/fault"
)

// Rebound says what became of a PersistentVolume whose backend's volume is a new one.
type Rebound string

// The outcomes.
const (
	ReboundSame Rebound = "same" // it names the new volume already
	ReboundMade Rebound = "made" // the object was made, or made again: its source cannot be changed
)

// Rebind makes the PersistentVolume of the given name be as wanted, bound to the claim that it names. Its
// source is immutable, so an object with another one is deleted, without its backend's volume being touched,
// and made again; the claim finds it by its name. It can be repeated.
//
// Errors: NotFound when the claim is not there, Busy when something else has taken the name or the claim.
func (c *Client) Rebind(ctx context.Context, want *corev1.PersistentVolume) (Rebound, error) {
	claim, err := c.typed.CoreV1().PersistentVolumeClaims(want.Spec.ClaimRef.Namespace).Get(ctx, want.Spec.ClaimRef.Name, metav1.GetOptions{})
	if err != nil {
		return "", classify("find claim", want.Spec.ClaimRef.Namespace+"/"+want.Spec.ClaimRef.Name, err)
	}
	if claim.Spec.VolumeName != "" && claim.Spec.VolumeName != want.Name {
		return "", fault.Newf("bind volume", fault.Busy, want.Name, "claim %s/%s has another volume, %s", claim.Namespace, claim.Name, claim.Spec.VolumeName)
	}
	made := fresh(want, claim.UID)
	volumes := c.typed.CoreV1().PersistentVolumes()
	found, err := volumes.Get(ctx, want.Name, metav1.GetOptions{})
	if err == nil {
		if sameVolume(found, made) && found.DeletionTimestamp == nil {
			return ReboundSame, nil
		}
		if err := c.dropVolume(ctx, found); err != nil {
			return "", err
		}
	} else if !apierrors.IsNotFound(err) {
		return "", classify("find volume", want.Name, err)
	}
	if _, err := volumes.Create(ctx, made, metav1.CreateOptions{}); err != nil {
		return "", classify("make volume", want.Name, err)
	}
	return ReboundMade, nil
}

// fresh is a PersistentVolume without what the cluster gave the old one.
func fresh(pv *corev1.PersistentVolume, claim types.UID) *corev1.PersistentVolume {
	out := pv.DeepCopy()
	out.ObjectMeta = metav1.ObjectMeta{Name: pv.Name, Labels: pv.Labels, Annotations: pv.Annotations, Finalizers: pv.Finalizers}
	out.Status = corev1.PersistentVolumeStatus{}
	out.Spec.ClaimRef = &corev1.ObjectReference{
		APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name, UID: claim,
	}
	return out
}

func sameVolume(found, want *corev1.PersistentVolume) bool {
	return reflect.DeepEqual(found.Spec.PersistentVolumeSource, want.Spec.PersistentVolumeSource) &&
		reflect.DeepEqual(found.Spec.NodeAffinity, want.Spec.NodeAffinity) &&
		found.Spec.ClaimRef != nil && found.Spec.ClaimRef.UID == want.Spec.ClaimRef.UID
}

// dropVolume deletes the object alone. It is told to retain its backend's volume first, and its finalizers
// go, since those who hold them would wait for a volume that is not there.
func (c *Client) dropVolume(ctx context.Context, pv *corev1.PersistentVolume) error {
	volumes := c.typed.CoreV1().PersistentVolumes()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		found, err := volumes.Get(ctx, pv.Name, metav1.GetOptions{})
		if err != nil || found.UID != pv.UID {
			return err
		}
		found.Spec.PersistentVolumeReclaimPolicy, found.Finalizers = corev1.PersistentVolumeReclaimRetain, nil
		_, err = volumes.Update(ctx, found, metav1.UpdateOptions{})
		return err
	})
	if err == nil {
		err = volumes.Delete(ctx, pv.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pv.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return classify("delete volume object", pv.Name, err)
	}
	return awaitGone(ctx, "delete volume object", volumes, pv)
}

// goneWithin bounds the wait for an object without finalizers to go: a controller may put them back.
const goneWithin = 30 * time.Second

// objects are a kind's, in one namespace or the cluster: what client-go's typed clients have in common.
type objects[T metav1.Object] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
	Update(ctx context.Context, object T, options metav1.UpdateOptions) (T, error)
}

// awaitGone waits until an object that was deleted is gone, and takes away finalizers that it has.
func awaitGone[T metav1.Object](ctx context.Context, op string, all objects[T], deleted T) error {
	ctx, cancel := context.WithTimeout(ctx, goneWithin)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		found, err := all.Get(ctx, deleted.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && found.GetUID() != deleted.GetUID() {
			return nil
		}
		if err == nil && len(found.GetFinalizers()) > 0 {
			found.SetFinalizers(nil)
			_, err = all.Update(ctx, found, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return classify(op, deleted.GetName(), err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fault.Newf(op, fault.Transient, deleted.GetName(), "it is still there after %s", goneWithin)
		}
	}
}
