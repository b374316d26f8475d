// Package csi is the provider for every backend that has none of its own: it works through the objects that
// a cluster's CSI drivers answer to, and never talks to the storage itself.
//
// A volume is a driver's name with a volume handle; its PersistentVolumes are only views of it. A record is
// the PersistentVolume by which a volume that Muster made is found again. An alias is a PersistentVolume and
// a claim, in the settings' namespace, of a volume that has no claim of its own, for as long as a call needs
// one. A snapshot is a driver's name with a snapshot handle; its VolumeSnapshotContent is kept (Retain)
// whatever becomes of the namespace. An import is a second VolumeSnapshotContent of the same snapshot, with
// a VolumeSnapshot in the settings' namespace. A mover is a pod there, without credentials, that has one
// volume as a raw device and moves its bytes over exec.
package csi
