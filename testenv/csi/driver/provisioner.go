package main

import (
	"context"
	"fmt"
	"log"
	"time"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// provisioner makes volumes for claims and deletes those of released PersistentVolumes, as the external
// provisioner does.
type provisioner struct {
	kube      kubernetes.Interface
	snapshots snapshots.Interface
	store     *store
}

const provisionedBy = "pv.kubernetes.io/provisioned-by"

func (p *provisioner) run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(p.kube, time.Second)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims().Informer(), factory.Core().V1().PersistentVolumes().Informer()
	if _, err := claims.AddEventHandler(handler(func(object any) { p.claim(ctx, object.(*corev1.PersistentVolumeClaim)) })); err != nil {
		return err
	}
	if _, err := volumes.AddEventHandler(handler(func(object any) { p.volume(ctx, object.(*corev1.PersistentVolume)) })); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	return ctx.Err()
}

func handler(each func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: each, UpdateFunc: func(_, object any) { each(object) }}
}

func (p *provisioner) claim(ctx context.Context, claim *corev1.PersistentVolumeClaim) {
	if claim.Status.Phase != corev1.ClaimPending || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil {
		return
	}
	class, err := p.kube.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, metav1.GetOptions{})
	if err != nil || class.Provisioner != driverName {
		return
	}
	late := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if late && claim.Annotations["volume.kubernetes.io/selected-node"] == "" {
		return
	}
	if err := p.provision(ctx, claim, class); err != nil {
		log.Printf("claim %s/%s: %v", claim.Namespace, claim.Name, err)
		p.event(ctx, claim, err)
	}
}

func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	source := ""
	if data := claim.Spec.DataSource; data != nil {
		var err error
		if source, err = p.snapshot(ctx, claim, data.Name); err != nil {
			return err
		}
	}
	request := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	volume, err := p.store.createVolume("pvc-"+string(claim.UID), request.Value(), source)
	if err != nil {
		return err
	}
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(claim.UID), Annotations: map[string]string{provisionedBy: driverName}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode, StorageClassName: class.Name, PersistentVolumeReclaimPolicy: policy,
			Capacity: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(volume.Size, resource.BinarySI)},
			ClaimRef: &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: volume.ID, VolumeAttributes: map[string]string{"lab": "yes"},
			}},
		},
	}
	if _, err := p.kube.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// snapshot is the handle of a VolumeSnapshot. Like the external provisioner it refuses another volume mode
// unless the content allows it.
func (p *provisioner) snapshot(ctx context.Context, claim *corev1.PersistentVolumeClaim, name string) (string, error) {
	snapshot, err := p.snapshots.SnapshotV1().VolumeSnapshots(claim.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if snapshot.Status == nil || snapshot.Status.ReadyToUse == nil || !*snapshot.Status.ReadyToUse {
		return "", fmt.Errorf("snapshot %s is not ready", name)
	}
	content, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, *snapshot.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	from, to := content.Spec.SourceVolumeMode, claim.Spec.VolumeMode
	if from != nil && to != nil && *from != *to && content.Annotations["snapshot.storage.kubernetes.io/allow-volume-mode-change"] != "true" {
		return "", fmt.Errorf("snapshot %s is of a %s volume and must not become %s", name, *from, *to)
	}
	return *content.Status.SnapshotHandle, nil
}

func (p *provisioner) event(ctx context.Context, claim *corev1.PersistentVolumeClaim, problem error) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: claim.Name + ".", Namespace: claim.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		Type:           corev1.EventTypeWarning, Reason: "ProvisioningFailed", Message: problem.Error(), FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: driverName},
	}
	if _, err := p.kube.CoreV1().Events(claim.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		log.Print(err)
	}
}

func (p *provisioner) volume(ctx context.Context, pv *corev1.PersistentVolume) {
	if pv.Status.Phase != corev1.VolumeReleased || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete ||
		pv.Annotations[provisionedBy] != driverName || pv.Spec.CSI == nil || pv.DeletionTimestamp != nil {
		return
	}
	err := p.store.deleteVolume(pv.Spec.CSI.VolumeHandle)
	if err == nil {
		err = p.kube.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		log.Printf("volume %s: %v", pv.Name, err)
	}
}
