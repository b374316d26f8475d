package guard

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
)

// liar is a provider whose answers a test gives.
type liar struct {
	providers.Unsupported
	info       providers.Info
	health     providers.Health
	volume     providers.Volume
	volumes    []providers.Volume
	snapshot   providers.Snapshot
	snapshots  []providers.Snapshot
	set        providers.SnapshotSet
	extents    [][]providers.Extent
	blocks     []providers.Block
	attachment providers.Attachment
	paths      [][]string
	machine    providers.Machine
	machines   []providers.Machine
	bound      *corev1.PersistentVolume
	endless    bool
}

func (l *liar) Info(context.Context) (providers.Info, error)           { return l.info, nil }
func (l *liar) Configure(context.Context, json.RawMessage) error       { return nil }
func (l *liar) Health(context.Context) (providers.Health, error)       { return l.health, nil }
func (l *liar) Close() error                                           { return nil }
func (l *liar) DeleteVolume(context.Context, providers.Handle) error   { return nil }
func (l *liar) DeleteSnapshot(context.Context, providers.Handle) error { return nil }
func (l *liar) Detach(context.Context, providers.Handle) error         { return nil }
func (l *liar) DeleteMachine(context.Context, providers.Handle) error  { return nil }
func (l *liar) Volume(context.Context, providers.Handle) (providers.Volume, error) {
	return l.volume, nil
}
func (l *liar) Match(context.Context, *corev1.PersistentVolume) (providers.Volume, error) {
	return l.volume, nil
}
func (l *liar) Bind(context.Context, providers.Handle, *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	return l.bound, nil
}
func (l *liar) Create(context.Context, providers.CreateRequest) (providers.Volume, error) {
	return l.volume, nil
}
func (l *liar) Snapshot(context.Context, providers.SnapshotRequest) (providers.SnapshotSet, error) {
	return l.set, nil
}
func (l *liar) SnapshotOf(context.Context, providers.Handle) (providers.Snapshot, error) {
	return l.snapshot, nil
}
func (l *liar) CopySnapshot(context.Context, providers.CopyRequest) (providers.Snapshot, error) {
	return l.snapshot, nil
}
func (l *liar) Attach(context.Context, providers.AttachRequest) (providers.Attachment, error) {
	return l.attachment, nil
}
func (l *liar) CreateMachine(context.Context, providers.MachineRequest) (providers.Machine, error) {
	return l.machine, nil
}
func (l *liar) Write(_ context.Context, _ providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	for {
		if _, err := source(); errors.Is(err, io.EOF) {
			return l.volume, nil
		} else if err != nil {
			return providers.Volume{}, err
		}
	}
}

// give hands out all, and drops the error of each: a provider that goes on does not matter.
func give[V any](all []V, endless bool, each func(V) error) error {
	for _, v := range all {
		_ = each(v)
	}
	for endless {
		if each(all[0]) != nil {
			break
		}
	}
	return nil
}

func (l *liar) Discover(_ context.Context, _ providers.Query, each func(providers.Volume) error) error {
	if l.endless {
		v := l.volumes[0]
		for i := 0; ; i++ {
			v.ID = strconv.Itoa(i)
			if err := each(v); err != nil {
				return err
			}
		}
	}
	return give(l.volumes, false, each)
}
func (l *liar) ListSnapshots(_ context.Context, _ providers.Query, each func(providers.Snapshot) error) error {
	return give(l.snapshots, false, each)
}
func (l *liar) Extents(_ context.Context, _ providers.ExtentsRequest, each func([]providers.Extent) error) error {
	return give(l.extents, l.endless, each)
}
func (l *liar) Read(_ context.Context, _ providers.ReadRequest, each func(providers.Block) error) error {
	return give(l.blocks, l.endless, each)
}
func (l *liar) Changes(_ context.Context, _ providers.ChangesRequest, each func([]string) error) error {
	return give(l.paths, l.endless, each)
}
func (l *liar) DiscoverMachines(_ context.Context, _ providers.Query, each func(providers.Machine) error) error {
	return give(l.machines, false, each)
}

func handle(state string) providers.Handle {
	return providers.Handle{Provider: "liar", State: []byte(state)}
}

func volumeOf(id string) providers.Volume {
	return providers.Volume{Handle: handle(id), ID: id, Content: providers.ContentBlocks, Size: 1 << 20, Used: -1}
}

func snapshotOf(id, volume string) providers.Snapshot {
	return providers.Snapshot{Handle: handle(id), ID: id, VolumeID: volume, Content: providers.ContentBlocks, Size: 1 << 20}
}

// honest is a liar that tells the truth.
func honest() *liar {
	return &liar{
		info: providers.Info{Name: "liar", Version: "1", Capabilities: []providers.Capability{
			providers.CapDiscover, providers.CapSnapshot, providers.CapGroup, providers.CapRead, providers.CapChanged,
			providers.CapWrite, providers.CapOverwrite, providers.CapCreate, providers.CapClone, providers.CapCopy,
			providers.CapFiles, providers.CapSnapFile, providers.CapChanges, providers.CapMachines,
		}},
		volume: volumeOf("v"), volumes: []providers.Volume{volumeOf("v"), volumeOf("w")},
		snapshot: snapshotOf("s", "v"), snapshots: []providers.Snapshot{snapshotOf("s", "v"), snapshotOf("t", "w")},
		set:        providers.SnapshotSet{Snapshots: []providers.Snapshot{snapshotOf("s", "v")}, Atomic: true},
		extents:    [][]providers.Extent{{{Offset: 0, Length: 4096}}, {{Offset: 8192, Length: 4096}}},
		blocks:     []providers.Block{providers.NewBlock(0, []byte("0123")), providers.ZeroBlock(4, 4), providers.NewBlock(16, []byte("4567"))},
		attachment: providers.Attachment{Handle: handle("a"), Path: "/tmp"},
		paths:      [][]string{{".", "a", "a/b"}, {"caf\xe9"}},
		machine:    providers.Machine{Handle: handle("m"), ID: "m"},
		machines:   []providers.Machine{{Handle: handle("m"), ID: "m"}},
		bound:      &corev1.PersistentVolume{},
	}
}

// calls are all that can be asked of a provider, by name.
func calls() map[string]func(context.Context, providers.Provider) error {
	read := providers.ReadRequest{Snapshot: handle("s"), Extents: []providers.Extent{{Offset: 0, Length: 4}, {Offset: 4, Length: 4}, {Offset: 16, Length: 4}}}
	return map[string]func(context.Context, providers.Provider) error{
		"health": func(ctx context.Context, p providers.Provider) error { _, err := p.Health(ctx); return err },
		"discover": func(ctx context.Context, p providers.Provider) error {
			return p.Discover(ctx, providers.Query{}, take[providers.Volume])
		},
		"by tag": func(ctx context.Context, p providers.Provider) error {
			return p.Discover(ctx, providers.Query{Tags: map[string]string{"tier": "*"}}, take[providers.Volume])
		},
		"volume": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Volume(ctx, handle("v"))
			return err
		},
		"match": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Match(ctx, &corev1.PersistentVolume{})
			return err
		},
		"bind": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Bind(ctx, handle("v"), &corev1.PersistentVolume{})
			return err
		},
		"create": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Create(ctx, providers.CreateRequest{Content: providers.ContentBlocks, Size: 1 << 20})
			return err
		},
		"clone": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Create(ctx, providers.CreateRequest{Snapshot: handle("s")})
			return err
		},
		"delete volume": func(ctx context.Context, p providers.Provider) error { return p.DeleteVolume(ctx, handle("v")) },
		"snapshot": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Snapshot(ctx, providers.SnapshotRequest{Volumes: []providers.Handle{handle("v")}, Atomic: true})
			return err
		},
		"snapshot of": func(ctx context.Context, p providers.Provider) error {
			_, err := p.SnapshotOf(ctx, handle("s"))
			return err
		},
		"list": func(ctx context.Context, p providers.Provider) error {
			return p.ListSnapshots(ctx, providers.Query{}, take[providers.Snapshot])
		},
		"list of w": func(ctx context.Context, p providers.Provider) error {
			return p.ListSnapshots(ctx, providers.Query{IDs: []string{"x"}}, take[providers.Snapshot])
		},
		"delete snapshot": func(ctx context.Context, p providers.Provider) error { return p.DeleteSnapshot(ctx, handle("s")) },
		"copy": func(ctx context.Context, p providers.Provider) error {
			_, err := p.CopySnapshot(ctx, providers.CopyRequest{Snapshot: handle("s")})
			return err
		},
		"extents": func(ctx context.Context, p providers.Provider) error {
			return p.Extents(ctx, providers.ExtentsRequest{Snapshot: handle("s")}, take[[]providers.Extent])
		},
		"changed": func(ctx context.Context, p providers.Provider) error {
			return p.Extents(ctx, providers.ExtentsRequest{Snapshot: handle("s"), Base: handle("r")}, take[[]providers.Extent])
		},
		"read": func(ctx context.Context, p providers.Provider) error { return p.Read(ctx, read, take[providers.Block]) },
		"write": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Write(ctx, providers.WriteRequest{CreateRequest: providers.CreateRequest{Size: 1 << 20}}, nothing)
			return err
		},
		"overwrite": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Write(ctx, providers.WriteRequest{Into: handle("v")}, nothing)
			return err
		},
		"attach": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Attach(ctx, providers.AttachRequest{Volume: handle("v")})
			return err
		},
		"attach snapshot": func(ctx context.Context, p providers.Provider) error {
			_, err := p.Attach(ctx, providers.AttachRequest{Snapshot: handle("s")})
			return err
		},
		"detach": func(ctx context.Context, p providers.Provider) error { return p.Detach(ctx, handle("a")) },
		"changes": func(ctx context.Context, p providers.Provider) error {
			return p.Changes(ctx, providers.ChangesRequest{Since: "1", Until: "2"}, take[[]string])
		},
		"machines": func(ctx context.Context, p providers.Provider) error {
			return p.DiscoverMachines(ctx, providers.Query{}, take[providers.Machine])
		},
		"create machine": func(ctx context.Context, p providers.Provider) error {
			_, err := p.CreateMachine(ctx, providers.MachineRequest{})
			return err
		},
		"delete machine": func(ctx context.Context, p providers.Provider) error { return p.DeleteMachine(ctx, handle("m")) },
	}
}

func take[V any](V) error               { return nil }
func nothing() (providers.Block, error) { return providers.Block{}, io.EOF }
func many(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[strconv.Itoa(i)] = ""
	}
	return m
}
