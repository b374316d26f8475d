//go:build cgo && ceph

package ceph

import (
	"context"
	"slices"

	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// window is how much of an image is compared at a time: what memory holds.
const window = 64 << 30

// Extents implements providers.Blocks. Where the image has fast-diff, its object maps tell which objects may
// differ, and only these are asked for what has changed in them; otherwise all objects are asked. No data is
// read.
func (p *Provider) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	const op = "list extents"
	at, err := readSnapshot(op, request.Snapshot)
	if err != nil {
		return err
	}
	if at.FS != "" {
		return fault.Newf(op, fault.Invalid, at.String(), "it holds files: Changes tells what has changed")
	}
	var base moment
	if !request.Base.IsZero() {
		if base, err = readSnapshot(op, request.Base); err != nil {
			return err
		}
	}
	return guarded(ctx, op, each, func(ctx context.Context, each func([]providers.Extent) error) error {
		d, err := p.diff(op, at, base)
		if err != nil {
			return err
		}
		defer d.image.Close()
		if err := d.run(ctx, each); err != nil {
			return err
		}
		return d.image.still(op, base)
	})
}

// diff compares a snapshot with another, or with nothing.
type diff struct {
	op    string
	at    moment
	image *image
	from  string // name of the base; empty: none
	size  uint64
	fast  bool
}

func (p *Provider) diff(op string, at, base moment) (*diff, error) {
	i, s, err := p.openSnapshot(op, at)
	if err != nil {
		return nil, err
	}
	d := &diff{op: op, at: at, image: i, size: s.Size}
	if base.Snap != "" {
		d.from, err = i.base(op, at, base)
	}
	features, ferr := i.GetFeatures()
	if err = cmpError(err, wrap(op, at.String(), i.cluster.note(ferr))); err != nil {
		i.Close()
		return nil, err
	}
	d.fast = features&rbd.FeatureFastDiff != 0
	return d, nil
}

// base is the name that librbd takes for a base.
func (i *image) base(op string, at, base moment) (string, error) {
	if base.FSID != at.FSID || base.Pool != at.Pool || base.Namespace != at.Namespace || base.ID != at.ID {
		return "", fault.Newf(op, fault.NotFound, base.String(), "it is a snapshot of another image than %s", at)
	}
	found, err := i.find(op, base)
	if err != nil {
		return "", err
	}
	if base.SnapID > at.SnapID {
		return "", fault.Newf(op, fault.Invalid, base.String(), "the base is later than %s", at)
	}
	if !found.grouped {
		return base.Snap, nil
	}
	all, err := i.snapshotsOf()
	if err != nil {
		return "", wrap(op, base.String(), i.cluster.note(err))
	}
	before := companion(base.Snap)
	if !slices.ContainsFunc(all, func(s snapshotInfo) bool { return s.Name == before && s.Id < found.Id }) {
		return "", fault.Newf(op, fault.NotFound, base.String(), "the snapshot %s, by which a group's snapshot is compared, was deleted", before)
	}
	return before, nil
}

// run tells the extents, window by window.
func (d *diff) run(ctx context.Context, each func([]providers.Extent) error) error {
	out := batch{each: each}
	for from := uint64(0); from < d.size; from += window {
		length := min(window, d.size-from)
		parts := []providers.Extent{{Offset: int64(from), Length: int64(length)}}
		var err error
		if d.fast {
			if parts, err = d.ask(ctx, parts[0], rbd.EnableWholeObject); err != nil {
				return err
			}
		}
		for _, part := range joined(parts) {
			exact, err := d.ask(ctx, part, rbd.DisableWholeObject)
			if err != nil {
				return err
			}
			for _, e := range exact {
				if e.Zero && d.from == "" {
					continue
				}
				if err := out.add(e); err != nil {
					return err
				}
			}
		}
	}
	return out.flush()
}

// joined are extents, near ones in one piece, of at most a GiB each, since every question takes time.
func joined(parts []providers.Extent) []providers.Extent {
	const near, most = 64 << 20, 1 << 30
	var all []providers.Extent
	for _, part := range parts {
		for part.Length > 0 {
			piece := providers.Extent{Offset: part.Offset, Length: min(part.Length, most)}
			part.Offset, part.Length = part.Offset+piece.Length, part.Length-piece.Length
			if n := len(all) - 1; n >= 0 && piece.Offset-all[n].End() <= near && piece.End()-all[n].Offset <= most {
				all[n].Length = piece.End() - all[n].Offset
				continue
			}
			all = append(all, piece)
		}
	}
	return all
}

// ask returns what differs within a part, ascending; of striped images librbd tells it in another order.
func (d *diff) ask(ctx context.Context, part providers.Extent, whole rbd.DiffWholeObject) ([]providers.Extent, error) {
	var found []providers.Extent
	err := d.image.DiffIterate(rbd.DiffIterateConfig{
		SnapName: d.from, Offset: uint64(part.Offset), Length: uint64(part.Length), IncludeParent: rbd.IncludeParent, WholeObject: whole,
		Callback: func(offset, length uint64, exists int, _ any) int {
			found = append(found, providers.Extent{Offset: int64(offset), Length: int64(length), Zero: exists == 0})
			if ctx.Err() != nil {
				return -1
			}
			return 0
		},
	})
	if err := cmpError(ctx.Err(), d.image.cluster.note(err)); err != nil {
		return nil, wrap(d.op, d.at.String(), err)
	}
	slices.SortFunc(found, func(a, b providers.Extent) int { return int(a.Offset - b.Offset) })
	return merged(found, part), nil
}

// merged joins neighbours, and cuts what is outside of the part or told twice.
func merged(found []providers.Extent, part providers.Extent) []providers.Extent {
	var all []providers.Extent
	at := part.Offset
	for _, e := range found {
		end := min(e.End(), part.End())
		e.Offset = max(e.Offset, at)
		if e.Length = end - e.Offset; e.Length <= 0 {
			continue
		}
		at = end
		if n := len(all) - 1; n >= 0 && all[n].End() == e.Offset && all[n].Zero == e.Zero {
			all[n].Length += e.Length
			continue
		}
		all = append(all, e)
	}
	return all
}

// batch tells extents in messages of a size that the wire takes.
type batch struct {
	each    func([]providers.Extent) error
	pending []providers.Extent
}

func (b *batch) add(e providers.Extent) error {
	if n := len(b.pending) - 1; n >= 0 && b.pending[n].End() == e.Offset && b.pending[n].Zero == e.Zero {
		b.pending[n].Length += e.Length
		return nil
	}
	if len(b.pending) >= providers.MaxExtents {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.pending = append(b.pending, e)
	return nil
}

func (b *batch) flush() error {
	if len(b.pending) == 0 {
		return nil
	}
	pending := b.pending
	b.pending = nil
	return b.each(pending)
}
