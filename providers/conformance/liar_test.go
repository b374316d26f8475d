package conformance_test

import (
	"context"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/mem"
)

// liar is a provider whose methods can be replaced. Each gets the honest answer's maker.
type liar struct {
	providers.Provider
	backend *mem.Backend

	info      func(providers.Info) providers.Info
	configure func(json.RawMessage) json.RawMessage
	health    func(*providers.Health)
	discover  func(ctx context.Context, q providers.Query, each func(providers.Volume) error) error
	match     func(context.Context, *corev1.PersistentVolume) (providers.Volume, error)
	bind      func(context.Context, providers.Handle, *corev1.PersistentVolume) (*corev1.PersistentVolume, error)
	describe  func(context.Context, providers.Handle) (providers.Volume, error)
	create    func(context.Context, providers.CreateRequest) (providers.Volume, error)
	deleteV   func(context.Context, providers.Handle) error
	snapshot  func(context.Context, providers.SnapshotRequest) (providers.SnapshotSet, error)
	list      func(ctx context.Context, q providers.Query, each func(providers.Snapshot) error) error
	deleteS   func(context.Context, providers.Handle) error
	copied    func(context.Context, providers.CopyRequest) (providers.Snapshot, error)
	extents   func(context.Context, providers.ExtentsRequest, func([]providers.Extent) error) error
	read      func(context.Context, providers.ReadRequest, func(providers.Block) error) error
	write     func(context.Context, providers.WriteRequest, providers.Source) (providers.Volume, error)
	attach    func(context.Context, providers.AttachRequest) (providers.Attachment, error)
	changes   func(context.Context, providers.ChangesRequest, func([]string) error) error
	machine   func(context.Context, providers.MachineRequest) (providers.Machine, error)
	deleteM   func(context.Context, providers.Handle) error
}

func (l *liar) Info(ctx context.Context) (providers.Info, error) {
	info, err := l.Provider.Info(ctx)
	if l.info != nil {
		info = l.info(info)
	}
	return info, err
}

func (l *liar) Configure(ctx context.Context, raw json.RawMessage) error {
	if l.configure != nil {
		raw = l.configure(raw)
	}
	return l.Provider.Configure(ctx, raw)
}

func (l *liar) Health(ctx context.Context) (providers.Health, error) {
	h, err := l.Provider.Health(ctx)
	if l.health != nil {
		l.health(&h)
	}
	return h, err
}

func (l *liar) Discover(ctx context.Context, q providers.Query, each func(providers.Volume) error) error {
	if l.discover != nil {
		return l.discover(ctx, q, each)
	}
	return l.Provider.Discover(ctx, q, each)
}

func (l *liar) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	if l.match != nil {
		return l.match(ctx, pv)
	}
	return l.Provider.Match(ctx, pv)
}

func (l *liar) Bind(ctx context.Context, h providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	if l.bind != nil {
		return l.bind(ctx, h, pv)
	}
	return l.Provider.Bind(ctx, h, pv)
}

func (l *liar) Volume(ctx context.Context, h providers.Handle) (providers.Volume, error) {
	if l.describe != nil {
		return l.describe(ctx, h)
	}
	return l.Provider.Volume(ctx, h)
}

func (l *liar) Create(ctx context.Context, r providers.CreateRequest) (providers.Volume, error) {
	if l.create != nil {
		return l.create(ctx, r)
	}
	return l.Provider.Create(ctx, r)
}

func (l *liar) DeleteVolume(ctx context.Context, h providers.Handle) error {
	if l.deleteV != nil {
		return l.deleteV(ctx, h)
	}
	return l.Provider.DeleteVolume(ctx, h)
}

func (l *liar) Snapshot(ctx context.Context, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
	if l.snapshot != nil {
		return l.snapshot(ctx, r)
	}
	return l.Provider.Snapshot(ctx, r)
}

func (l *liar) ListSnapshots(ctx context.Context, q providers.Query, each func(providers.Snapshot) error) error {
	if l.list != nil {
		return l.list(ctx, q, each)
	}
	return l.Provider.ListSnapshots(ctx, q, each)
}

func (l *liar) DeleteSnapshot(ctx context.Context, h providers.Handle) error {
	if l.deleteS != nil {
		return l.deleteS(ctx, h)
	}
	return l.Provider.DeleteSnapshot(ctx, h)
}

func (l *liar) CopySnapshot(ctx context.Context, r providers.CopyRequest) (providers.Snapshot, error) {
	if l.copied != nil {
		return l.copied(ctx, r)
	}
	return l.Provider.CopySnapshot(ctx, r)
}

func (l *liar) Extents(ctx context.Context, r providers.ExtentsRequest, each func([]providers.Extent) error) error {
	if l.extents != nil {
		return l.extents(ctx, r, each)
	}
	return l.Provider.Extents(ctx, r, each)
}

func (l *liar) Read(ctx context.Context, r providers.ReadRequest, each func(providers.Block) error) error {
	if l.read != nil {
		return l.read(ctx, r, each)
	}
	return l.Provider.Read(ctx, r, each)
}

func (l *liar) Write(ctx context.Context, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	if l.write != nil {
		return l.write(ctx, r, source)
	}
	return l.Provider.Write(ctx, r, source)
}

func (l *liar) Attach(ctx context.Context, r providers.AttachRequest) (providers.Attachment, error) {
	if l.attach != nil {
		return l.attach(ctx, r)
	}
	return l.Provider.Attach(ctx, r)
}

func (l *liar) Changes(ctx context.Context, r providers.ChangesRequest, each func([]string) error) error {
	if l.changes != nil {
		return l.changes(ctx, r, each)
	}
	return l.Provider.Changes(ctx, r, each)
}

func (l *liar) CreateMachine(ctx context.Context, r providers.MachineRequest) (providers.Machine, error) {
	if l.machine != nil {
		return l.machine(ctx, r)
	}
	return l.Provider.CreateMachine(ctx, r)
}

func (l *liar) DeleteMachine(ctx context.Context, h providers.Handle) error {
	if l.deleteM != nil {
		return l.deleteM(ctx, h)
	}
	return l.Provider.DeleteMachine(ctx, h)
}

// without is a copy of tags without one.
func without(tags map[string]string, key string) map[string]string {
	tags = maps.Clone(tags)
	delete(tags, key)
	return tags
}
