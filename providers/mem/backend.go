package mem

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Backend keeps volumes and what belongs to them. Its methods are what an application, or an operator, would
// do to it without Muster.
type Backend struct {
	now    func() time.Time
	keeper keeper
	images images
	trees  *shelf
	temp   string // removed by Close
	faults troubles
}

// keeper keeps the state and sees to it that one at a time changes it.
type keeper interface {
	lock(ctx context.Context) (unlock func(), err error)
	load() ([]byte, error)
	save([]byte) error
}

// NewBackend returns an empty backend in memory. File volumes are in a temporary folder, which Close
// removes.
func NewBackend(now func() time.Time) (*Backend, error) {
	temp, err := os.MkdirTemp("", "muster-mem-")
	if err != nil {
		return nil, fault.New("open backend", fault.Transient, os.TempDir(), err)
	}
	return &Backend{now: clock(now), keeper: &memoryKeeper{turn: make(chan struct{}, 1)}, images: &memoryImages{all: map[string]*memoryImage{}}, trees: &shelf{dir: temp}, temp: temp}, nil
}

// clock is one whose times are the same after they were stored.
func clock(now func() time.Time) func() time.Time {
	return func() time.Time { return now().UTC().Round(0) }
}

// Close removes what is temporary.
func (b *Backend) Close() error {
	if b.temp == "" {
		return nil
	}
	return os.RemoveAll(b.temp)
}

// Fail adds faults to those of every provider that uses the backend.
func (b *Backend) Fail(faults ...Fault) { b.faults.add(faults...) }

// Heal takes back what Fail added.
func (b *Backend) Heal() { b.faults.clear() }

// view reads the state.
func (b *Backend) view(ctx context.Context, s *state) error {
	return b.transact(ctx, func(now *state) error {
		*s = *now
		return errUnchanged
	})
}

// update changes the state in one step, which is durable when it returns; an error of change leaves it as it
// was.
func (b *Backend) update(ctx context.Context, change func(*state) error) error {
	return b.transact(ctx, change)
}

// errUnchanged ends a transaction that has nothing to save.
var errUnchanged = fault.New("transact", fault.Internal, "", nil)

func (b *Backend) transact(ctx context.Context, change func(*state) error) error {
	unlock, err := b.keeper.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	raw, err := b.keeper.load()
	if err != nil {
		return err
	}
	var s state
	if err := decode(raw, &s); err != nil {
		return err
	}
	err = change(&s)
	fresh := len(raw) == 0 // its fingerprint must last
	if errors.Is(err, errUnchanged) && !fresh {
		return nil
	}
	if err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	if raw, err = json.Marshal(s); err != nil {
		return fault.New("save state", fault.Internal, Name, err)
	}
	return b.keeper.save(raw)
}

// sweep removes content that nothing refers to.
func (b *Backend) sweep(s *state) error {
	images, trees := map[string]bool{}, map[string]bool{}
	for _, v := range s.Volumes {
		images[v.Image], trees[v.Tree] = true, true
	}
	for _, n := range s.Snapshots {
		images[n.Image], trees[n.Tree] = true, true
	}
	for _, m := range s.Mounts {
		trees[m.Tree] = true
	}
	for id, m := range s.Marks {
		if s.Volumes[m.Volume] == nil {
			delete(s.Marks, id)
		}
	}
	if err := b.images.sweep(images); err != nil {
		return err
	}
	return b.trees.sweep(trees)
}

// AddVolume makes a volume that is not Muster's: one that an application uses. Tags, zone, machine and
// parameters are v's; it gets an ID when it has none.
func (b *Backend) AddVolume(ctx context.Context, v providers.Volume) (providers.Volume, error) {
	record := &volume{ID: v.ID, Content: v.Content, Size: v.Size, Zone: v.Zone, Machine: v.Machine, Tags: v.Tags, Parameters: v.Parameters}
	if record.ID == "" {
		record.ID = "app-" + random()
	}
	err := b.withTree(ctx, record, "", func(s *state) error {
		if s.Volumes[record.ID] != nil {
			return fault.Newf("add volume", fault.Exists, record.ID, "there is one of this ID")
		}
		s.Volumes[record.ID] = record
		return nil
	})
	if err != nil {
		return providers.Volume{}, err
	}
	return b.describe(record), nil
}

// RemoveVolume deletes a volume, whoever made it.
func (b *Backend) RemoveVolume(ctx context.Context, id string) error {
	return b.update(ctx, func(s *state) error {
		delete(s.Volumes, id)
		return b.sweep(s)
	})
}

// RemoveSnapshot deletes a snapshot as somebody else would.
func (b *Backend) RemoveSnapshot(ctx context.Context, id string) error {
	return b.update(ctx, func(s *state) error {
		delete(s.Snapshots, id)
		return b.sweep(s)
	})
}

// WriteAt writes into a live block volume.
func (b *Backend) WriteAt(ctx context.Context, id string, offset int64, data []byte) error {
	return b.update(ctx, func(s *state) error {
		v := s.Volumes[id]
		if v == nil {
			return gone("write", id)
		}
		image, err := b.overlay(v, offset, data)
		if err != nil {
			return err
		}
		v.Image = image
		return nil
	})
}

// memoryKeeper keeps the state as it would be in a file.
type memoryKeeper struct {
	turn chan struct{}
	mu   sync.Mutex
	raw  []byte
}

func (k *memoryKeeper) lock(ctx context.Context) (func(), error) {
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn }, nil
	case <-ctx.Done():
		return nil, ended(ctx, "lock state")
	}
}

func (k *memoryKeeper) load() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.raw, nil
}

func (k *memoryKeeper) save(raw []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.raw = raw
	return nil
}

func ended(ctx context.Context, op string) error {
	return fault.New(op, fault.Transient, Name, context.Cause(ctx))
}
