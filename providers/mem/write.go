package mem

import (
	"context"
	"errors"
	"io"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Write implements providers.Provider. The volume gets its image when all of it is there, in one step.
func (p *provider) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	const op = "write volume"
	b, err := p.ready(op)
	if err != nil {
		return providers.Volume{}, err
	}
	if err := checkWrite(op, request); err != nil {
		return providers.Volume{}, err
	}
	by := by(request.Token, request)
	if request.Into.IsZero() {
		return b.writeNew(ctx, op, request, by, source)
	}
	return b.writeInto(ctx, op, request, by, source)
}

func checkWrite(op string, request providers.WriteRequest) error {
	if request.Content != providers.ContentBlocks {
		return fault.Newf(op, fault.Invalid, request.Name, "content %q: only blocks are written", request.Content)
	}
	if !request.Snapshot.IsZero() {
		return fault.Newf(op, fault.Invalid, request.Name, "it has a content already: Write takes no snapshot")
	}
	return checkCreate(op, request.CreateRequest)
}

func (b *Backend) writeNew(ctx context.Context, op string, request providers.WriteRequest, by made, source providers.Source) (providers.Volume, error) {
	if v, err := b.madeVolume(ctx, op, by); v != nil || err != nil {
		return b.answer(v), err
	}
	image, err := b.fill(ctx, op, request.Size, nil, source)
	if err != nil {
		return providers.Volume{}, err
	}
	v := newVolume(request.CreateRequest, by)
	v.Image = image.id()
	result, err := b.insert(ctx, op, v, snapshot{})
	if err != nil || result.ID != v.ID {
		image.discard() // another call of the same token was faster
		return result, err
	}
	image.keep()
	return result, nil
}

func (b *Backend) writeInto(ctx context.Context, op string, request providers.WriteRequest, by made, source providers.Source) (providers.Volume, error) {
	id, err := identify(op, "volume", request.Into)
	if err != nil {
		return providers.Volume{}, err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return providers.Volume{}, err
	}
	v := s.Volumes[id]
	if err := overwritable(op, id, v, request.Size); err != nil {
		return providers.Volume{}, err
	}
	if _, err := v.Overwritten.same(op, by); err != nil {
		return providers.Volume{}, err
	}
	old, err := b.tableOf(v.Image)
	if err != nil {
		return providers.Volume{}, err
	}
	before := v.Image
	image, err := b.fill(ctx, op, v.Size, old, source)
	if err != nil {
		return providers.Volume{}, err
	}
	err = b.update(ctx, func(s *state) error {
		if v = s.Volumes[id]; v == nil {
			return gone(op, id)
		}
		if v.Image != before { // whose pages the new image may use
			return fault.Newf(op, fault.Busy, id, "somebody else has written into it")
		}
		v.Image, v.Overwritten = image.id(), by
		return b.sweep(s)
	})
	if err != nil {
		image.discard()
		return providers.Volume{}, err
	}
	image.keep()
	return b.describe(v), nil
}

func overwritable(op, id string, v *volume, size int64) error {
	switch {
	case v == nil:
		return gone(op, id)
	case v.Content != providers.ContentBlocks:
		return fault.Newf(op, fault.Invalid, id, "it holds files")
	case v.Size != size:
		return fault.Newf(op, fault.Invalid, id, "it has %d bytes, not %d", v.Size, size)
	case v.Machine != "":
		return fault.Newf(op, fault.Busy, id, "machine %s uses it", v.Machine)
	}
	return nil
}

// fill makes an image of what source returns. Pages that are as they were in old are not written again.
func (b *Backend) fill(ctx context.Context, op string, size int64, old table, source providers.Source) (imageDraft, error) {
	image, err := b.newImage(ctx)
	if err != nil {
		return nil, err
	}
	w := &pageWriter{image: image, old: old, content: make([]byte, pageSize)}
	if err = w.copy(ctx, op, size, source); err == nil {
		err = image.seal(w.fresh)
	}
	if err != nil {
		image.discard()
		return nil, err
	}
	return image, nil
}

// pageWriter makes pages of ascending blocks.
type pageWriter struct {
	image   imageDraft
	old     table
	fresh   table
	index   int64 // of the page in content
	content []byte
}

func (w *pageWriter) copy(ctx context.Context, op string, size int64, source providers.Source) error {
	var end int64
	for {
		if ctx.Err() != nil {
			return ended(ctx, op)
		}
		block, err := source()
		if errors.Is(err, io.EOF) {
			return w.flush()
		}
		if err != nil {
			return err
		}
		if err := checkBlock(op, block, end, size); err != nil {
			return err
		}
		end = block.End()
		if block.Zero {
			continue
		}
		if err := w.add(block.Offset, block.Data); err != nil {
			return err
		}
	}
}

func checkBlock(op string, block providers.Block, end, size int64) error {
	refuse := func(kind fault.Kind, why string) error {
		return fault.Newf(op, kind, "", "block %d+%d: %s", block.Offset, block.Length, why)
	}
	switch {
	case block.Offset < end:
		return refuse(fault.Invalid, "blocks must ascend and not overlap")
	case block.Length <= 0:
		return refuse(fault.Invalid, "it is empty")
	case block.Length > size-block.Offset:
		return refuse(fault.Invalid, "it ends beyond the volume")
	case block.Zero:
		return nil
	case int64(len(block.Data)) != block.Length:
		return refuse(fault.Corrupt, "its data has another length")
	case providers.Sum(block.Data) != block.CRC:
		return refuse(fault.Corrupt, "its checksum is wrong")
	}
	return nil
}

func (w *pageWriter) add(offset int64, data []byte) error {
	for len(data) > 0 {
		index := offset / pageSize
		if index != w.index {
			if err := w.flush(); err != nil {
				return err
			}
			w.index = index
		}
		n := copy(w.content[offset%pageSize:], data)
		offset, data = offset+int64(n), data[n:]
	}
	return nil
}

// flush keeps the page, unless it is zeros or as it was, and starts an empty one.
func (w *pageWriter) flush() error {
	if zeros(w.content) {
		return nil
	}
	sum := sumOf(w.content)
	p, found := w.old.at(w.index)
	if !found || p.Sum != sum {
		slot, err := w.image.add(w.content)
		if err != nil {
			return err
		}
		p = page{Index: w.index, Image: w.image.id(), Slot: slot, Sum: sum}
	}
	w.fresh = append(w.fresh, p)
	clear(w.content)
	return nil
}
