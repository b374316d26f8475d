package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/ceph"
)

// rbdBench is a Ceph on loopback, the provider's process, and the stock kopia command.
type rbdBench struct {
	on       *stage
	ceph     *ceph.Cluster
	provider providers.Provider
	kopia    string
	made     int
	stats    repository.ImageStats
	read     int64

	muster, providers int64 // most memory of the last full capture
}

// rbdBytes is the size of the images, half of whose content is random and half text.
const rbdBytes = 1 << 30

func newRBD(ctx context.Context, on *stage) (*rbdBench, error) {
	b := &rbdBench{on: on}
	if err := ceph.Install(ctx); err != nil {
		return nil, err
	}
	var err error
	if b.kopia, err = testenv.StockKopia(ctx); err != nil {
		return nil, err
	}
	if b.ceph, err = ceph.Start(ctx, ceph.Config{Dir: on.fresh("ceph"), Size: 16 << 30}); err != nil {
		return nil, err
	}
	on.after(func(context.Context) error { return b.ceph.Close() })
	b.provider, err = startProvider(ctx, on, "ceph", map[string]any{"configFile": b.ceph.ConfigFile, "pools": []any{ceph.Pool}})
	return b, err
}

// image makes an image with a content of rbdBytes, spread over its size.
func (b *rbdBench) image(ctx context.Context, size int64) (string, error) {
	b.made++
	name := fmt.Sprintf("rbd/bench-%d", b.made)
	if _, err := b.ceph.RBD(ctx, "create", name, "--size", fmt.Sprintf("%dB", size), "--image-feature", "layering,exclusive-lock,object-map,fast-diff"); err != nil {
		return "", err
	}
	b.on.after(func(ctx context.Context) error {
		_, err := b.ceph.Shell(ctx, "rbd snap purge --no-progress "+name+"; rbd rm --no-progress "+name)
		return err
	})
	return name, b.scatter(ctx, name, size, rbdBytes, 4<<20)
}

// scatter writes pieces of half random data and half text, evenly spread.
func (b *rbdBench) scatter(ctx context.Context, image string, size, content, piece int64) error {
	pieces := max(1, content/piece)
	blocks := func(i int64) []byte {
		from := newSource(uint64(b.made)<<32 | uint64(i))
		out := append(from.random(int(piece/2)), from.text(int(piece/2))...)
		return out[:piece]
	}
	file := b.on.fresh("pieces")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	if err := f.Truncate(size); err != nil {
		return errors.Join(err, f.Close())
	}
	for i := range pieces {
		if _, err := f.WriteAt(blocks(i), size/pieces*i&^(1<<20-1)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	// rbd bench and import know no offsets: a diff in export-diff's format would be another way to say this.
	_, err = b.ceph.Shell(ctx, fmt.Sprintf("mnt=$(mktemp -d); rbd-fuse -c $CEPH_CONF -p rbd $mnt; dd if=%s of=$mnt/%s bs=1M conv=sparse,notrunc,fsync status=none; umount $mnt; rmdir $mnt", file, filepath.Base(image)))
	return err
}

func (b *rbdBench) snapshot(ctx context.Context, image string) (providers.Snapshot, error) {
	v, err := findVolume(ctx, b.provider, image)
	if err != nil {
		return providers.Snapshot{}, err
	}
	b.made++
	return snapshotOf(ctx, b.provider, v, fmt.Sprintf("bench-%d", b.made))
}

// capture is what the step capture-volumes does with a snapshot.
func (b *rbdBench) capture(ctx context.Context, v *vault, snapshot providers.Snapshot, base *volume.Base) (repository.Image, error) {
	captured, err := volume.BlockCapture{Provider: b.provider, Snapshot: snapshot, Base: base, Repository: v.Repository, Name: snapshot.ID, Progress: silence{}}.Capture(ctx)
	b.stats, b.read = captured.Stats, captured.Read
	if err != nil {
		return repository.Image{}, err
	}
	return captured.Image, v.Flush(ctx)
}

// stockVault is a repository of the stock kopia command.
func (b *rbdBench) stockVault(ctx context.Context) (string, error) {
	dir := b.on.fresh("stock")
	_, err := b.shell(ctx, dir, stockCreate)
	return dir, err
}

// shell runs a script with the stock kopia command and rbd.
func (b *rbdBench) shell(ctx context.Context, dir, script string) (string, error) {
	return b.ceph.Shell(ctx, stockScript(b.kopia, dir, script))
}

func rbdFull() benchmark {
	return benchmark{
		name: "rbd-full", unit: "MB/s", against: "rbd export-diff into kopia", runs: 3, warm: true,
		how: "MB of an image a second. An RBD image of 1 GiB, half random and half text, on a Ceph of one OSD. Ours is what capture-volumes does with a snapshot: allocated extents through the provider's process into an empty repository (encrypted, compressed, flushed). " +
			"The reference is rbd export-diff of a snapshot, piped into kopia snapshot create --stdin-file, with the same compression, into an empty repository of kopia's defaults.",
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			b, err := newRBD(ctx, on)
			if err != nil {
				return sides{}, err
			}
			image, err := b.image(ctx, rbdBytes)
			if err != nil {
				return sides{}, err
			}
			snapshot, err := b.snapshot(ctx, image)
			if err != nil {
				return sides{}, err
			}
			return sides{
				ours: func(ctx context.Context) (float64, error) { return b.oursInto(ctx, snapshot) },
				reference: func(ctx context.Context) (float64, error) {
					dir, err := b.stockVault(ctx)
					if err != nil {
						return 0, err
					}
					defer os.RemoveAll(dir)
					took, err := b.timed(ctx, dir, `rbd export-diff --no-progress `+snapshot.ID+` - | "$KOPIA" snapshot create /image --stdin-file image.diff`)
					return perSecond(rbdBytes, took), err
				},
				notes: b.memory,
			}, nil
		},
	}
}

// oursInto captures a snapshot into an empty repository.
func (b *rbdBench) oursInto(ctx context.Context, snapshot providers.Snapshot) (rate float64, err error) {
	v, err := newVault(ctx, b.on)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	if err := forgetPeaks(); err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = b.capture(ctx, v, snapshot, nil)
	took := time.Since(began)
	b.muster, b.providers = peaks()
	return perSecond(rbdBytes, took), err
}

func (b *rbdBench) memory() []string {
	return []string{fmt.Sprintf("Of ours, the process in muster's place held %s MB of memory at most, the provider's %s MB.", figure(float64(b.muster)/1e6), figure(float64(b.providers)/1e6))}
}

func (b *rbdBench) timed(ctx context.Context, dir, script string) (time.Duration, error) {
	began := time.Now()
	_, err := b.shell(ctx, dir, script)
	return time.Since(began), err
}

func rbdIncremental() benchmark {
	return benchmark{
		name: "rbd-incremental", unit: "s", against: "rbd export-diff of everything into kopia", lessIsBetter: true, runs: 3,
		how: "Seconds for the next capture of an image of 1 GiB in which 1 % has changed, in pieces of 1 MiB. Ours reads the changed extents alone and shares all other chunks of the image with the capture before; what it makes is a whole image. " +
			"The reference is rbd export-diff of the whole snapshot into kopia, which is how that pipe makes a whole image; kopia stores what it does not have.",
		prepare: prepareRBDIncremental,
	}
}

func prepareRBDIncremental(ctx context.Context, on *stage) (sides, error) {
	b, err := newRBD(ctx, on)
	if err != nil {
		return sides{}, err
	}
	image, err := b.image(ctx, rbdBytes)
	if err != nil {
		return sides{}, err
	}
	first, err := b.snapshot(ctx, image)
	if err != nil {
		return sides{}, err
	}
	v, err := newVault(ctx, on)
	if err != nil {
		return sides{}, err
	}
	on.after(v.remove)
	full, err := b.capture(ctx, v, first, nil)
	if err != nil {
		return sides{}, err
	}
	dir, err := b.stockVault(ctx)
	if err != nil {
		return sides{}, err
	}
	pipe := `rbd export-diff --no-progress %s - | "$KOPIA" snapshot create /image --stdin-file image.diff`
	if _, err := b.shell(ctx, dir, fmt.Sprintf(pipe, first.ID)); err != nil {
		return sides{}, err
	}
	base := volume.Base{Snapshot: first.Handle, Image: full}
	var snapshot providers.Snapshot
	return sides{
		ours: func(ctx context.Context) (float64, error) {
			b.made++
			if err := b.scatter(ctx, image, rbdBytes, rbdBytes/100, 1<<20); err != nil {
				return 0, err
			}
			if snapshot, err = b.snapshot(ctx, image); err != nil {
				return 0, err
			}
			began := time.Now()
			next, err := b.capture(ctx, v, snapshot, &base)
			base = volume.Base{Snapshot: snapshot.Handle, Image: next}
			return time.Since(began).Seconds(), err
		},
		reference: func(ctx context.Context) (float64, error) {
			took, err := b.timed(ctx, dir, fmt.Sprintf(pipe, snapshot.ID))
			return took.Seconds(), err
		},
		notes: func() []string {
			return []string{fmt.Sprintf("Of 1 GiB, ours asked the backend for %s MB and stored chunks of %s MB.", figure(float64(b.read)/1e6), figure(float64(b.stats.WrittenBytes)/1e6))}
		},
	}, nil
}

func rbdRestore() benchmark {
	return benchmark{
		name: "rbd-restore", unit: "MB/s", against: "kopia into rbd import-diff", runs: 3,
		how: "MB of an image a second, out of the repositories of rbd-full into a new image each time. Ours compares every chunk with its digest and writes through the provider's process. " +
			"The reference is kopia show, piped into rbd import-diff.",
		prepare: prepareRBDRestore,
	}
}

func prepareRBDRestore(ctx context.Context, on *stage) (sides, error) {
	b, err := newRBD(ctx, on)
	if err != nil {
		return sides{}, err
	}
	image, err := b.image(ctx, rbdBytes)
	if err != nil {
		return sides{}, err
	}
	snapshot, err := b.snapshot(ctx, image)
	if err != nil {
		return sides{}, err
	}
	v, err := newVault(ctx, on)
	if err != nil {
		return sides{}, err
	}
	on.after(v.remove)
	stored, err := b.capture(ctx, v, snapshot, nil)
	if err != nil {
		return sides{}, err
	}
	dir, err := b.stockVault(ctx)
	if err != nil {
		return sides{}, err
	}
	out, err := b.shell(ctx, dir, `rbd export-diff --no-progress `+snapshot.ID+` - | "$KOPIA" snapshot create /image --stdin-file image.diff --json`)
	if err != nil {
		return sides{}, err
	}
	var made struct {
		RootEntry struct {
			Object string `json:"obj"`
		} `json:"rootEntry"`
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return sides{}, err
	}
	return sides{
		ours: func(ctx context.Context) (float64, error) {
			b.made++
			began := time.Now()
			restored, err := volume.RestoreBlocks(ctx, v.Repository, stored, b.provider, providers.WriteRequest{CreateRequest: providers.CreateRequest{
				Token: fmt.Sprintf("bench-%d", b.made), Content: providers.ContentBlocks, Size: rbdBytes, Tags: map[string]string{providers.TagRun: "bench"},
			}}, silence{})
			took := time.Since(began)
			if err != nil {
				return 0, err
			}
			return perSecond(rbdBytes, took), b.provider.DeleteVolume(ctx, restored.Handle)
		},
		reference: func(ctx context.Context) (float64, error) {
			target := fmt.Sprintf("rbd/restored-%d", time.Now().UnixNano())
			if _, err := b.ceph.RBD(ctx, "create", target, "--size", "1G"); err != nil {
				return 0, err
			}
			took, err := b.timed(ctx, dir, `"$KOPIA" show `+made.RootEntry.Object+`/image.diff | rbd import-diff --no-progress - `+target)
			if err != nil {
				return 0, err
			}
			_, err = b.ceph.Shell(ctx, "rbd snap purge --no-progress "+target+"; rbd rm --no-progress "+target)
			return perSecond(rbdBytes, took), err
		},
	}, nil
}

func rbdSparse() benchmark {
	return benchmark{
		name: "rbd-sparse", unit: "s", against: "an image of 1 GiB that is full", lessIsBetter: true, runs: 3,
		how: "Seconds to capture an image of 100 GiB that holds 1 GiB of data, spread over it, into an empty repository. The reference is the same capture of an image of 1 GiB that is full: holes shall cost nothing.",
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			b, err := newRBD(ctx, on)
			if err != nil {
				return sides{}, err
			}
			side := func(size int64) (func(context.Context) (float64, error), error) {
				image, err := b.image(ctx, size)
				if err != nil {
					return nil, err
				}
				snapshot, err := b.snapshot(ctx, image)
				return func(ctx context.Context) (float64, error) {
					rate, err := b.oursInto(ctx, snapshot)
					return rbdBytes / 1e6 / max(rate, 1e-9), err
				}, err
			}
			sparse, err := side(100 << 30)
			if err != nil {
				return sides{}, err
			}
			full, err := side(rbdBytes)
			return sides{ours: sparse, reference: full, notes: b.memory}, err
		},
	}
}
