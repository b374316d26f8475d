package mem

import (
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// faulty adds trouble to an honest provider.
type faulty struct {
	inner   *provider
	faults  troubles // of the settings
	without []providers.Capability
}

// troubled is one call and the faults that meet it.
type troubled struct {
	ctx    context.Context
	name   string
	faults []Fault
}

// begin starts a call.
func (f *faulty) begin(ctx context.Context, name string) (*troubled, error) {
	c := &troubled{ctx: ctx, name: name, faults: f.faults.of(name)}
	if b, err := f.inner.ready(name); err == nil {
		c.faults = append(c.faults, b.faults.of(name)...)
	}
	return c, c.strike(AtStart)
}

func (c *troubled) strike(at string) error {
	for _, f := range c.faults {
		if f.at() != at {
			continue
		}
		if err := f.strike(c.ctx, c.name); err != nil {
			return err
		}
	}
	return nil
}

// finish ends a call: with its own error, or with that of a fault at its end.
func (c *troubled) finish(err error, stream bool) error {
	if err != nil {
		return err
	}
	if !stream {
		if err := c.strike(AtMiddle); err != nil {
			return err
		}
	}
	return c.strike(AtEnd)
}

// corrupt reports whether a fault of the call does so.
func (c *troubled) corrupt(how string) bool {
	return slices.ContainsFunc(c.faults, func(f Fault) bool { return f.Corrupt == how })
}

// one is a call with one answer.
func one[R any](ctx context.Context, f *faulty, name string, needs providers.Capability, do func(*troubled) (R, error)) (R, *troubled, error) {
	var zero R
	if slices.Contains(f.without, needs) {
		return zero, nil, fault.Newf(name, fault.Unsupported, Name, "its settings say that it cannot")
	}
	c, err := f.begin(ctx, name)
	if err != nil {
		return zero, c, err
	}
	result, err := do(c)
	if err := c.finish(err, false); err != nil {
		return zero, c, err
	}
	return result, c, nil
}

// stream is a call with many answers.
func stream[V any](ctx context.Context, f *faulty, name string, needs providers.Capability, each func(V) error, do func(*troubled, func(V) error) error) error {
	if slices.Contains(f.without, needs) {
		return fault.Newf(name, fault.Unsupported, Name, "its settings say that it cannot")
	}
	c, err := f.begin(ctx, name)
	if err != nil {
		return err
	}
	first := true
	err = do(c, func(v V) error {
		if err := each(v); err != nil || !first {
			return err
		}
		first = false
		return c.strike(AtMiddle)
	})
	return c.finish(err, true)
}

// nothing is the answer of calls without one.
func nothing(do func() error) func(*troubled) (struct{}, error) {
	return func(*troubled) (struct{}, error) { return struct{}{}, do() }
}

// Info implements providers.Provider.
func (f *faulty) Info(ctx context.Context) (providers.Info, error) {
	info, err := f.inner.Info(ctx)
	info.Capabilities = slices.DeleteFunc(info.Capabilities, func(c providers.Capability) bool { return slices.Contains(f.without, c) })
	return info, err
}

// Configure implements providers.Provider.
func (f *faulty) Configure(ctx context.Context, raw json.RawMessage) error {
	settings, err := parse(raw)
	if err != nil {
		return err
	}
	f.without = settings.Without
	f.faults.add(settings.Faults...)
	return f.inner.Configure(ctx, raw)
}

// Close implements providers.Provider.
func (f *faulty) Close() error { return f.inner.Close() }

// Health implements providers.Provider.
func (f *faulty) Health(ctx context.Context) (providers.Health, error) {
	h, _, err := one(ctx, f, "Health", "", func(*troubled) (providers.Health, error) { return f.inner.Health(ctx) })
	return h, err
}

// Discover implements providers.Provider.
func (f *faulty) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	return stream(ctx, f, "Discover", providers.CapDiscover, each, func(_ *troubled, each func(providers.Volume) error) error {
		return f.inner.Discover(ctx, query, each)
	})
}

// oneVolume is a call that returns a volume.
func (f *faulty) oneVolume(ctx context.Context, name string, needs providers.Capability, do func(*troubled) (providers.Volume, error)) (providers.Volume, error) {
	v, c, err := one(ctx, f, name, needs, do)
	if err == nil && c.corrupt(CorruptSize) {
		v.Size++
	}
	return v, err
}

// Volume implements providers.Provider.
func (f *faulty) Volume(ctx context.Context, h providers.Handle) (providers.Volume, error) {
	return f.oneVolume(ctx, "Volume", "", func(*troubled) (providers.Volume, error) { return f.inner.Volume(ctx, h) })
}

// Match implements providers.Provider.
func (f *faulty) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	return f.oneVolume(ctx, "Match", "", func(*troubled) (providers.Volume, error) { return f.inner.Match(ctx, pv) })
}

// Bind implements providers.Provider.
func (f *faulty) Bind(ctx context.Context, h providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	bound, _, err := one(ctx, f, "Bind", "", func(*troubled) (*corev1.PersistentVolume, error) { return f.inner.Bind(ctx, h, pv) })
	return bound, err
}

// Create implements providers.Provider.
func (f *faulty) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	needs := providers.CapCreate
	if !request.Snapshot.IsZero() {
		needs = providers.CapClone
	}
	return f.oneVolume(ctx, "Create", needs, func(*troubled) (providers.Volume, error) { return f.inner.Create(ctx, request) })
}

// DeleteVolume implements providers.Provider.
func (f *faulty) DeleteVolume(ctx context.Context, h providers.Handle) error {
	_, _, err := one(ctx, f, "DeleteVolume", "", nothing(func() error { return f.inner.DeleteVolume(ctx, h) }))
	return err
}

// Snapshot implements providers.Provider.
func (f *faulty) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	if several := len(request.Volumes) > 1; several && slices.Contains(f.without, providers.CapGroup) {
		return f.oneByOne(ctx, request)
	}
	set, c, err := one(ctx, f, "Snapshot", providers.CapSnapshot, func(*troubled) (providers.SnapshotSet, error) { return f.inner.Snapshot(ctx, request) })
	if err == nil && c.corrupt(CorruptSize) {
		set.Snapshots[0].Size++
	}
	return set, err
}

// oneByOne is Snapshot of a backend that has no groups.
func (f *faulty) oneByOne(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	if request.Atomic {
		return providers.SnapshotSet{}, fault.Newf("Snapshot", fault.Unsupported, Name, "its settings say that it has no groups")
	}
	set, _, err := one(ctx, f, "Snapshot", providers.CapSnapshot, func(*troubled) (providers.SnapshotSet, error) { return f.inner.Snapshot(ctx, request) })
	set.Atomic = false
	return set, err
}

// oneSnapshot is a call that returns a snapshot.
func (f *faulty) oneSnapshot(ctx context.Context, name string, needs providers.Capability, do func(*troubled) (providers.Snapshot, error)) (providers.Snapshot, error) {
	n, c, err := one(ctx, f, name, needs, do)
	if err == nil && c.corrupt(CorruptSize) {
		n.Size++
	}
	return n, err
}

// SnapshotOf implements providers.Provider.
func (f *faulty) SnapshotOf(ctx context.Context, h providers.Handle) (providers.Snapshot, error) {
	return f.oneSnapshot(ctx, "SnapshotOf", providers.CapSnapshot, func(*troubled) (providers.Snapshot, error) { return f.inner.SnapshotOf(ctx, h) })
}

// ListSnapshots implements providers.Provider.
func (f *faulty) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	return stream(ctx, f, "ListSnapshots", providers.CapSnapshot, each, func(_ *troubled, each func(providers.Snapshot) error) error {
		return f.inner.ListSnapshots(ctx, query, each)
	})
}

// DeleteSnapshot implements providers.Provider.
func (f *faulty) DeleteSnapshot(ctx context.Context, h providers.Handle) error {
	_, _, err := one(ctx, f, "DeleteSnapshot", providers.CapSnapshot, nothing(func() error { return f.inner.DeleteSnapshot(ctx, h) }))
	return err
}

// CopySnapshot implements providers.Provider.
func (f *faulty) CopySnapshot(ctx context.Context, request providers.CopyRequest) (providers.Snapshot, error) {
	return f.oneSnapshot(ctx, "CopySnapshot", providers.CapCopy, func(*troubled) (providers.Snapshot, error) { return f.inner.CopySnapshot(ctx, request) })
}
