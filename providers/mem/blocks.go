package mem

import (
	"context"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// blockSize is the size of blocks that Read returns.
const blockSize = 1 << 20

// Extents implements providers.Provider.
func (p *provider) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	const op = "list extents"
	b, n, err := p.blocksOf(ctx, op, request.Snapshot)
	if err != nil {
		return err
	}
	now, err := b.tableOf(n.Image)
	if err != nil {
		return err
	}
	var then table
	if !request.Base.IsZero() {
		base, err := b.snapshotOf(ctx, op, request.Base)
		if err != nil {
			return err
		}
		if base.Volume != n.Volume {
			return fault.Newf(op, fault.Invalid, base.ID, "the base is a snapshot of %s, not of %s", base.Volume, n.Volume)
		}
		if then, err = b.tableOf(base.Image); err != nil {
			return err
		}
	}
	all := differences(then, now, n.Size)
	for len(all) > 0 {
		if ctx.Err() != nil {
			return ended(ctx, op)
		}
		count := min(len(all), providers.MaxExtents)
		if err := each(all[:count]); err != nil {
			return err
		}
		all = all[count:]
	}
	return nil
}

// blocksOf finds a snapshot of a block volume.
func (p *provider) blocksOf(ctx context.Context, op string, h providers.Handle) (*Backend, snapshot, error) {
	b, err := p.ready(op)
	if err != nil {
		return nil, snapshot{}, err
	}
	n, err := b.snapshotOf(ctx, op, h)
	if err != nil {
		return nil, snapshot{}, err
	}
	if n.Content != providers.ContentBlocks {
		return nil, snapshot{}, fault.Newf(op, fault.Unsupported, n.ID, "it holds files: attach it")
	}
	return b, n, nil
}

// differences are the extents in which two tables differ, within size.
func differences(then, now table, size int64) []providers.Extent {
	var all []providers.Extent
	add := func(index int64, zero bool) {
		e := providers.Extent{Offset: index * pageSize, Length: pageSize, Zero: zero}
		e.Length = min(e.Length, size-e.Offset)
		if e.Length <= 0 {
			return
		}
		if last := len(all) - 1; last >= 0 && all[last].End() == e.Offset && all[last].Zero == zero {
			all[last].Length += e.Length
			return
		}
		all = append(all, e)
	}
	for len(then) > 0 || len(now) > 0 {
		switch {
		case len(then) == 0 || len(now) > 0 && now[0].Index < then[0].Index:
			add(now[0].Index, false)
			now = now[1:]
		case len(now) == 0 || then[0].Index < now[0].Index:
			add(then[0].Index, true)
			then = then[1:]
		default:
			if now[0].Sum != then[0].Sum {
				add(now[0].Index, false)
			}
			then, now = then[1:], now[1:]
		}
	}
	return all
}

// Read implements providers.Provider.
func (p *provider) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	const op = "read blocks"
	b, n, err := p.blocksOf(ctx, op, request.Snapshot)
	if err != nil {
		return err
	}
	if err := checkExtents(op, request.Extents, n); err != nil {
		return err
	}
	t, err := b.tableOf(n.Image)
	if err != nil {
		return err
	}
	for _, e := range request.Extents {
		for at := e.Offset; at < e.End(); at += blockSize {
			if ctx.Err() != nil {
				return ended(ctx, op)
			}
			block, err := b.readBlock(t, at, min(blockSize, e.End()-at))
			if err != nil {
				return err
			}
			if err := each(block); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkExtents(op string, extents []providers.Extent, n snapshot) error {
	if len(extents) > providers.MaxExtents {
		return fault.Newf(op, fault.Invalid, n.ID, "%d extents; at most %d in one call", len(extents), providers.MaxExtents)
	}
	var end int64
	for _, e := range extents {
		if e.Offset < end || e.Length <= 0 || e.Length > n.Size-e.Offset {
			return fault.Newf(op, fault.Invalid, n.ID, "extent %d+%d: extents must ascend, not overlap, and lie within the snapshot's %d bytes", e.Offset, e.Length, n.Size)
		}
		end = e.End()
	}
	return nil
}

func (b *Backend) readBlock(t table, offset, length int64) (providers.Block, error) {
	data := make([]byte, length)
	content := make([]byte, pageSize)
	empty := true
	for index := offset / pageSize; index*pageSize < offset+length; index++ {
		p, found := t.at(index)
		if !found {
			continue
		}
		if err := b.images.read(p, content); err != nil {
			return providers.Block{}, err
		}
		empty = false
		if start := index * pageSize; start < offset {
			copy(data, content[offset-start:])
		} else {
			copy(data[start-offset:], content)
		}
	}
	if empty {
		return providers.ZeroBlock(offset, length), nil
	}
	return providers.NewBlock(offset, data), nil
}
