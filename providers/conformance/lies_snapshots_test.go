package conformance_test

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/musterdr/muster/providers"
)

func snapshotLies() []lie {
	snapshot := func(change func(ctx context.Context, l *liar, r providers.SnapshotRequest) (providers.SnapshotSet, error)) func(*liar) {
		return func(l *liar) {
			l.snapshot = func(ctx context.Context, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
				return change(ctx, l, r)
			}
		}
	}
	return []lie{
		{"a token is nothing to snapshots", snapshot(func(ctx context.Context, l *liar, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
			r.Token += strconv.FormatInt(time.Now().UnixNano(), 36)
			return l.Provider.Snapshot(ctx, r)
		}), "snapshot-again/blocks", "same token"},
		{"snapshots in another order", snapshot(func(ctx context.Context, l *liar, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
			set, err := l.Provider.Snapshot(ctx, r)
			slices.Reverse(set.Snapshots)
			return set, err
		}), "snapshot-several/blocks", "is of volume"},
		{"not atomic after all", snapshot(func(ctx context.Context, l *liar, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
			set, err := l.Provider.Snapshot(ctx, r)
			set.Atomic = false
			return set, err
		}), "snapshot-group/blocks", "says that they are not"},
		{"one after the other, and called atomic", func(l *liar) {
			var writes atomic.Int64
			l.write = func(ctx context.Context, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
				v, err := l.Provider.Write(ctx, r, source)
				writes.Add(1)
				return v, err
			}
			l.snapshot = func(ctx context.Context, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
				return oneByOne(ctx, l, r, func() {
					for goal := writes.Load() + 4; len(r.Volumes) > 1 && writes.Load() < goal && ctx.Err() == nil; {
						time.Sleep(time.Millisecond) // the application goes on
					}
				})
			}
		}, "snapshot-one-instant/blocks", "not of one instant"},
		{"leaves behind what it had", snapshot(func(ctx context.Context, l *liar, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
			return oneByOne(ctx, l, r, func() {})
		}), "snapshot-all-or-none/blocks", "expected 0"},
		{"of a time long ago", snapshot(func(ctx context.Context, l *liar, r providers.SnapshotRequest) (providers.SnapshotSet, error) {
			set, err := l.Provider.Snapshot(ctx, r)
			for i := range set.Snapshots {
				set.Snapshots[i].Instant = set.Snapshots[i].Instant.Add(-time.Hour)
			}
			return set, err
		}), "snapshot/blocks", "backend's clock"},
		{"a snapshot that follows its volume", follow, "snapshot-frozen/blocks", "differs"},
		{"lists all snapshots", func(l *liar) {
			l.list = func(ctx context.Context, q providers.Query, each func(providers.Snapshot) error) error {
				q.Tags = without(q.Tags, providers.TagStep)
				return l.Provider.ListSnapshots(ctx, q, each)
			}
		}, "snapshot-list/files", "none has"},
		{"deletes no snapshot", func(l *liar) {
			l.deleteS = func(context.Context, providers.Handle) error { return nil }
		}, "snapshot-delete/blocks", "went through"},
		{"a copy that is the original", func(l *liar) {
			l.copied = func(ctx context.Context, r providers.CopyRequest) (providers.Snapshot, error) {
				return l.SnapshotOf(ctx, r.Snapshot)
			}
		}, "copy-snapshot/blocks", "the copy is"},
		{"a clone that is empty", func(l *liar) {
			l.create = func(ctx context.Context, r providers.CreateRequest) (providers.Volume, error) {
				if !r.Snapshot.IsZero() {
					r.Snapshot, r.Size = providers.Handle{}, max(r.Size, 2<<20)
				}
				return l.Provider.Create(ctx, r)
			}
		}, "clone/blocks", "differs"},
		{"a clone of files that is empty", func(l *liar) {
			l.create = func(ctx context.Context, r providers.CreateRequest) (providers.Volume, error) {
				if !r.Snapshot.IsZero() {
					r.Snapshot, r.Size = providers.Handle{}, max(r.Size, 2<<20)
				}
				return l.Provider.Create(ctx, r)
			}
		}, "clone/files", "no such file"},
	}
}

// oneByOne takes snapshots in turn, waits after each, and claims that they are of one instant.
func oneByOne(ctx context.Context, l *liar, r providers.SnapshotRequest, wait func()) (providers.SnapshotSet, error) {
	all := providers.SnapshotSet{Atomic: true}
	for i, v := range r.Volumes {
		one := providers.SnapshotRequest{Token: r.Token + strconv.Itoa(i), Volumes: []providers.Handle{v}, Tags: r.Tags}
		set, err := l.Provider.Snapshot(ctx, one)
		if err != nil {
			return all, err
		}
		all.Snapshots = append(all.Snapshots, set.Snapshots...)
		wait()
	}
	return all, nil
}

// follow reads the volume as it is now.
func follow(l *liar) {
	l.read = func(ctx context.Context, r providers.ReadRequest, each func(providers.Block) error) error {
		n, err := l.SnapshotOf(ctx, r.Snapshot)
		if err != nil {
			return err
		}
		var live providers.Handle
		err = l.Provider.Discover(ctx, providers.Query{IDs: []string{n.VolumeID}}, func(v providers.Volume) error {
			live = v.Handle
			return nil
		})
		if err != nil {
			return err
		}
		set, err := l.Provider.Snapshot(ctx, providers.SnapshotRequest{
			Token: strconv.FormatInt(time.Now().UnixNano(), 36), Volumes: []providers.Handle{live}, Tags: n.Tags,
		})
		if err != nil {
			return err
		}
		return l.Provider.Read(ctx, providers.ReadRequest{Snapshot: set.Snapshots[0].Handle, Extents: r.Extents}, each)
	}
}
