package csi

import (
	"context"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Extents implements providers.Blocks. Without a SnapshotMetadata service all of the volume may hold data,
// and may have changed.
func (p *Provider) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	const op = "list extents"
	if err := p.ready(op); err != nil {
		return err
	}
	state, base, err := p.extentsOf(op, request)
	if err != nil {
		return err
	}
	if !request.Base.IsZero() {
		if _, err := p.SnapshotOf(ctx, request.Base); err != nil {
			return err
		}
	}
	sorted := &ordered{op: op, subject: state.id(), size: state.Size, each: each}
	service, err := p.dialMetadata(ctx, op, state.Driver)
	if err != nil {
		return err
	}
	if service == nil {
		if _, err := p.SnapshotOf(ctx, request.Snapshot); err != nil {
			return err
		}
		return sorted.whole()
	}
	defer service.close()
	imported, err := p.imported(ctx, op, state)
	if err != nil {
		return err
	}
	err = service.extents(ctx, op, p.settings.Namespace, imported.Name, base, sorted.add)
	if unableMetadata(err) && sorted.end == 0 {
		return sorted.whole()
	}
	if err != nil {
		return err
	}
	return sorted.flush()
}

func (p *Provider) extentsOf(op string, request providers.ExtentsRequest) (state snapshotState, base string, err error) {
	if state, err = p.blocksOf(op, request.Snapshot); err != nil || request.Base.IsZero() {
		return state, "", err
	}
	earlier, err := decodeSnapshot(op, request.Base)
	if err != nil {
		return state, "", err
	}
	if earlier.Driver != state.Driver || earlier.Volume != state.Volume {
		return state, "", fault.Newf(op, fault.Invalid, earlier.id(), "it is a snapshot of another volume than %s", state.id())
	}
	return state, earlier.Snapshot, nil
}

func (p *Provider) blocksOf(op string, handle providers.Handle) (snapshotState, error) {
	state, err := decodeSnapshot(op, handle)
	if err != nil {
		return state, err
	}
	if state.Files {
		return state, fault.Newf(op, fault.Unsupported, state.id(), "the volume keeps files that cannot be read as a device")
	}
	return state, nil
}

// ordered passes extents on: within the size, joined where they touch, in batches that the contract allows.
type ordered struct {
	op, subject string
	size        int64
	each        func([]providers.Extent) error

	batch []providers.Extent
	end   int64
}

func (o *ordered) add(extents []providers.Extent) error {
	for _, e := range extents {
		if e.Length <= 0 || e.Offset < 0 || e.Offset < o.end {
			return fault.Newf(o.op, fault.Corrupt, o.subject, "the SnapshotMetadata service sent %d+%d after %d", e.Offset, e.Length, o.end)
		}
		if e.Offset >= o.size {
			continue
		}
		e.Length = min(e.Length, o.size-e.Offset)
		touches := e.Offset == o.end && len(o.batch) > 0
		o.end = e.End()
		if touches {
			o.batch[len(o.batch)-1].Length += e.Length
			continue
		}
		if len(o.batch) == providers.MaxExtents {
			if err := o.flush(); err != nil {
				return err
			}
		}
		o.batch = append(o.batch, e)
	}
	return nil
}

func (o *ordered) flush() error {
	if len(o.batch) == 0 {
		return nil
	}
	batch := o.batch
	o.batch = nil
	return o.each(batch)
}

func (o *ordered) whole() error {
	if o.size == 0 {
		return nil
	}
	return o.each([]providers.Extent{{Length: o.size}})
}
