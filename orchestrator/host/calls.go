package host

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// do makes a call of the running provider.
func (s *Storage) do(ctx context.Context, call func(providers.Provider) error) error {
	r, err := s.live(ctx)
	if err != nil {
		return err
	}
	return s.masks.error(s.judge(r, call(r.guard)))
}

// in is do when a slot is free.
func (s *Storage) in(ctx context.Context, lane slots, call func(providers.Provider) error) error {
	release, err := lane.take(ctx, s.spec.Name)
	if err != nil {
		return err
	}
	defer release()
	return s.do(ctx, call)
}

// Info implements providers.Provider.
func (s *Storage) Info(ctx context.Context) (info providers.Info, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { info, err = p.Info(ctx); return err })
	return info, err
}

// Configure implements providers.Provider: for one that was started without settings.
func (s *Storage) Configure(ctx context.Context, settings json.RawMessage) error {
	if s.configure {
		return fault.Newf("configure provider", fault.Invalid, s.spec.Name, "the host has given it its settings already")
	}
	return s.do(ctx, func(p providers.Provider) error { return p.Configure(ctx, settings) })
}

// Health implements providers.Provider.
func (s *Storage) Health(ctx context.Context) (health providers.Health, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { health, err = p.Health(ctx); return err })
	return health, err
}

// Discover implements providers.Volumes.
func (s *Storage) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	return s.do(ctx, func(p providers.Provider) error { return p.Discover(ctx, query, each) })
}

// Volume implements providers.Volumes.
func (s *Storage) Volume(ctx context.Context, handle providers.Handle) (volume providers.Volume, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { volume, err = p.Volume(ctx, handle); return err })
	return volume, err
}

// Match implements providers.Volumes.
func (s *Storage) Match(ctx context.Context, pv *corev1.PersistentVolume) (volume providers.Volume, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { volume, err = p.Match(ctx, pv); return err })
	return volume, err
}

// Bind implements providers.Volumes.
func (s *Storage) Bind(ctx context.Context, volume providers.Handle, pv *corev1.PersistentVolume) (bound *corev1.PersistentVolume, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { bound, err = p.Bind(ctx, volume, pv); return err })
	return bound, err
}

// Create implements providers.Volumes.
func (s *Storage) Create(ctx context.Context, request providers.CreateRequest) (volume providers.Volume, err error) {
	err = s.in(ctx, s.changes, func(p providers.Provider) (err error) { volume, err = p.Create(ctx, request); return err })
	return volume, err
}

// DeleteVolume implements providers.Volumes.
func (s *Storage) DeleteVolume(ctx context.Context, volume providers.Handle) error {
	return s.do(ctx, func(p providers.Provider) error { return p.DeleteVolume(ctx, volume) })
}

// Snapshot implements providers.Snapshots.
func (s *Storage) Snapshot(ctx context.Context, request providers.SnapshotRequest) (set providers.SnapshotSet, err error) {
	err = s.in(ctx, s.changes, func(p providers.Provider) (err error) { set, err = p.Snapshot(ctx, request); return err })
	return set, err
}

// SnapshotOf implements providers.Snapshots.
func (s *Storage) SnapshotOf(ctx context.Context, handle providers.Handle) (snapshot providers.Snapshot, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { snapshot, err = p.SnapshotOf(ctx, handle); return err })
	return snapshot, err
}

// ListSnapshots implements providers.Snapshots.
func (s *Storage) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	return s.do(ctx, func(p providers.Provider) error { return p.ListSnapshots(ctx, query, each) })
}

// DeleteSnapshot implements providers.Snapshots.
func (s *Storage) DeleteSnapshot(ctx context.Context, snapshot providers.Handle) error {
	return s.do(ctx, func(p providers.Provider) error { return p.DeleteSnapshot(ctx, snapshot) })
}

// CopySnapshot implements providers.Snapshots.
func (s *Storage) CopySnapshot(ctx context.Context, request providers.CopyRequest) (snapshot providers.Snapshot, err error) {
	err = s.in(ctx, s.changes, func(p providers.Provider) (err error) { snapshot, err = p.CopySnapshot(ctx, request); return err })
	return snapshot, err
}

// Extents implements providers.Blocks.
func (s *Storage) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	return s.do(ctx, func(p providers.Provider) error { return p.Extents(ctx, request, each) })
}

// Read implements providers.Blocks.
func (s *Storage) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	return s.in(ctx, s.reads, func(p providers.Provider) error { return p.Read(ctx, request, each) })
}

// Write implements providers.Blocks.
func (s *Storage) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (volume providers.Volume, err error) {
	err = s.in(ctx, s.changes, func(p providers.Provider) (err error) { volume, err = p.Write(ctx, request, source); return err })
	return volume, err
}

// Attach implements providers.Files.
func (s *Storage) Attach(ctx context.Context, request providers.AttachRequest) (attachment providers.Attachment, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { attachment, err = p.Attach(ctx, request); return err })
	return attachment, err
}

// Detach implements providers.Files.
func (s *Storage) Detach(ctx context.Context, attachment providers.Handle) error {
	return s.do(ctx, func(p providers.Provider) error { return p.Detach(ctx, attachment) })
}

// Changes implements providers.Files.
func (s *Storage) Changes(ctx context.Context, request providers.ChangesRequest, each func([]string) error) error {
	return s.do(ctx, func(p providers.Provider) error { return p.Changes(ctx, request, each) })
}

// DiscoverMachines implements providers.Machines.
func (s *Storage) DiscoverMachines(ctx context.Context, query providers.Query, each func(providers.Machine) error) error {
	return s.do(ctx, func(p providers.Provider) error { return p.DiscoverMachines(ctx, query, each) })
}

// CreateMachine implements providers.Machines.
func (s *Storage) CreateMachine(ctx context.Context, request providers.MachineRequest) (machine providers.Machine, err error) {
	err = s.do(ctx, func(p providers.Provider) (err error) { machine, err = p.CreateMachine(ctx, request); return err })
	return machine, err
}

// DeleteMachine implements providers.Machines.
func (s *Storage) DeleteMachine(ctx context.Context, machine providers.Handle) error {
	return s.do(ctx, func(p providers.Provider) error { return p.DeleteMachine(ctx, machine) })
}
