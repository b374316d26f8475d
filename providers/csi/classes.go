package csi

import (
	"context"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
)

const (
	defaultSnapshotClass = "snapshot.storage.kubernetes.io/is-default-class"
	defaultStorageClass  = "storageclass.kubernetes.io/is-default-class"
)

// classFor picks a driver's class: the wanted one, else the default, else the only one.
func classFor(classes []snapshotv1.VolumeSnapshotClass, driver, wanted string) *snapshotv1.VolumeSnapshotClass {
	var own []*snapshotv1.VolumeSnapshotClass
	for i := range classes {
		class := &classes[i]
		if class.Driver != driver {
			continue
		}
		if class.Name == wanted || wanted == "" && class.Annotations[defaultSnapshotClass] == "true" {
			return class
		}
		own = append(own, class)
	}
	if wanted == "" && len(own) == 1 {
		return own[0]
	}
	return nil
}

// snapshotClass is the class of a driver's snapshots.
func (p *Provider) snapshotClass(ctx context.Context, op, driver string) (*snapshotv1.VolumeSnapshotClass, error) {
	classes, err := p.snapshots.SnapshotV1().VolumeSnapshotClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, wrap(op, "VolumeSnapshotClasses", err)
	}
	if class := classFor(classes.Items, driver, p.settings.SnapshotClasses[driver]); class != nil {
		return class, nil
	}
	return nil, fault.Newf(op, fault.Unsupported, driver, "the driver has no VolumeSnapshotClass that is its default or its only one: make one, or name one in the setting snapshotClasses")
}

// storageClass is the class of a new volume: the wanted one where it exists, else the setting's, else the default.
func (p *Provider) storageClass(ctx context.Context, op, wanted string) (*storagev1.StorageClass, error) {
	all := p.kube.StorageV1().StorageClasses()
	for _, name := range []string{wanted, p.settings.StorageClass} {
		if name == "" {
			continue
		}
		class, err := all.Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return p.servedClass(op, class)
		}
		if !apierrors.IsNotFound(err) {
			return nil, wrap(op, name, err)
		}
	}
	list, err := all.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, wrap(op, "StorageClasses", err)
	}
	for i := range list.Items {
		if list.Items[i].Annotations[defaultStorageClass] == "true" && wanted == "" {
			return p.servedClass(op, &list.Items[i])
		}
	}
	return nil, fault.Newf(op, fault.Invalid, wanted, "there is no such storage class here: set storageClass in the settings, or map the class")
}

func (p *Provider) servedClass(op string, class *storagev1.StorageClass) (*storagev1.StorageClass, error) {
	if !p.serves(class.Provisioner) {
		return nil, fault.Newf(op, fault.Denied, class.Name, "its provisioner %s is not among the drivers of the settings", class.Provisioner)
	}
	return class, nil
}
