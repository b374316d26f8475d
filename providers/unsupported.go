package providers

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers/fault"
)

// Unsupported answers every optional method with fault.Unsupported. Providers embed it and override what
// they can do.
type Unsupported struct{ Provider string }

func (u Unsupported) cannot(method string) error {
	return fault.Newf(method, fault.Unsupported, u.Provider, "this provider cannot do it; its capabilities tell what it can: muster provider info %s", u.Provider)
}

// Discover implements Volumes.
func (u Unsupported) Discover(context.Context, Query, func(Volume) error) error {
	return u.cannot("discover volumes")
}

// Volume implements Volumes.
func (u Unsupported) Volume(context.Context, Handle) (Volume, error) {
	return Volume{}, u.cannot("describe volume")
}

// Match implements Volumes.
func (u Unsupported) Match(context.Context, *corev1.PersistentVolume) (Volume, error) {
	return Volume{}, u.cannot("match volume")
}

// Bind implements Volumes.
func (u Unsupported) Bind(context.Context, Handle, *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	return nil, u.cannot("bind volume")
}

// Create implements Volumes.
func (u Unsupported) Create(context.Context, CreateRequest) (Volume, error) {
	return Volume{}, u.cannot("create volume")
}

// DeleteVolume implements Volumes.
func (u Unsupported) DeleteVolume(context.Context, Handle) error { return u.cannot("delete volume") }

// Snapshot implements Snapshots.
func (u Unsupported) Snapshot(context.Context, SnapshotRequest) (SnapshotSet, error) {
	return SnapshotSet{}, u.cannot("snapshot volumes")
}

// SnapshotOf implements Snapshots.
func (u Unsupported) SnapshotOf(context.Context, Handle) (Snapshot, error) {
	return Snapshot{}, u.cannot("describe snapshot")
}

// ListSnapshots implements Snapshots.
func (u Unsupported) ListSnapshots(context.Context, Query, func(Snapshot) error) error {
	return u.cannot("list snapshots")
}

// DeleteSnapshot implements Snapshots.
func (u Unsupported) DeleteSnapshot(context.Context, Handle) error {
	return u.cannot("delete snapshot")
}

// CopySnapshot implements Snapshots.
func (u Unsupported) CopySnapshot(context.Context, CopyRequest) (Snapshot, error) {
	return Snapshot{}, u.cannot("copy snapshot")
}

// Extents implements Blocks.
func (u Unsupported) Extents(context.Context, ExtentsRequest, func([]Extent) error) error {
	return u.cannot("list extents")
}

// Read implements Blocks.
func (u Unsupported) Read(context.Context, ReadRequest, func(Block) error) error {
	return u.cannot("read blocks")
}

// Write implements Blocks.
func (u Unsupported) Write(context.Context, WriteRequest, Source) (Volume, error) {
	return Volume{}, u.cannot("write blocks")
}

// Attach implements Files.
func (u Unsupported) Attach(context.Context, AttachRequest) (Attachment, error) {
	return Attachment{}, u.cannot("attach volume")
}

// Detach implements Files.
func (u Unsupported) Detach(context.Context, Handle) error { return u.cannot("detach volume") }

// Changes implements Files.
func (u Unsupported) Changes(context.Context, ChangesRequest, func([]string) error) error {
	return u.cannot("list changed files")
}

// DiscoverMachines implements Machines.
func (u Unsupported) DiscoverMachines(context.Context, Query, func(Machine) error) error {
	return u.cannot("discover machines")
}

// CreateMachine implements Machines.
func (u Unsupported) CreateMachine(context.Context, MachineRequest) (Machine, error) {
	return Machine{}, u.cannot("create machine")
}

// DeleteMachine implements Machines.
func (u Unsupported) DeleteMachine(context.Context, Handle) error {
	return u.cannot("delete machine")
}
