//go:build cgo && ceph

package ceph

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Write implements providers.Blocks.
func (p *Provider) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	const op = "write volume"
	if err := checkWrite(op, request); err != nil {
		return providers.Volume{}, err
	}
	if !request.Into.IsZero() {
		return p.overwrite(ctx, op, request, source)
	}
	d, err := p.draft(op, request.CreateRequest, digest(request), place{})
	if err != nil {
		return providers.Volume{}, err
	}
	var g gate
	defer g.close()
	return p.make(ctx, d, func(ctx context.Context) error {
		i, err := d.create(ctx, request.Size)
		if err != nil {
			return err
		}
		defer i.Close()
		if err := i.fill(ctx, op, request.Size, false, g.source(source)); err != nil {
			return err
		}
		return d.finish(ctx, i)
	})
}

// source is one that is not asked any more after the call has ended.
func (g *gate) source(source providers.Source) providers.Source {
	return func() (block providers.Block, err error) {
		if broken := g.pass(func() error { block, err = source(); return nil }); broken != nil {
			return block, broken
		}
		return block, err
	}
}

func checkWrite(op string, request providers.WriteRequest) error {
	if request.Content != providers.ContentBlocks {
		return fault.Newf(op, fault.Invalid, request.Name, "content %q: only blocks are written", request.Content)
	}
	if !request.Snapshot.IsZero() {
		return fault.Newf(op, fault.Invalid, request.Name, "what is written comes from the source: a write takes no snapshot")
	}
	return checkCreate(op, request.CreateRequest)
}

// overwrite fills a volume that is there and that nobody uses.
func (p *Provider) overwrite(ctx context.Context, op string, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	at, err := readVolume(op, request.Into)
	if err != nil {
		return providers.Volume{}, err
	}
	if at.FS != "" {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, at.String(), "it holds files: Attach gives them")
	}
	c, err := p.cluster(op, at.FSID)
	if err == nil {
		err = c.allowed(op, at)
	}
	if err != nil {
		return providers.Volume{}, err
	}
	m := mark{Token: request.Token, Request: digest(request), State: writing}
	var v providers.Volume
	var g gate
	defer g.close()
	err = bounded(ctx, op, func(ctx context.Context) error {
		return p.exclusive(ctx, op, c, at, at.Image, func(ctx context.Context) error {
			i, err := c.open(op, at, writer)
			if err != nil {
				return err
			}
			defer i.Close()
			if err := i.refill(ctx, op, request.Size, m, g.source(source)); err != nil {
				return wrap(op, at.String(), c.note(err))
			}
			v, err = i.describe()
			return wrap(op, at.String(), c.note(err))
		})
	})
	return v, err
}

// refill overwrites an image. A mark says so until it is whole again.
func (i *image) refill(ctx context.Context, op string, size int64, m mark, source providers.Source) error {
	old := i.marks.overwrite
	if old != nil && old.Token == m.Token && old.Request != m.Request {
		return fault.Newf(op, fault.Exists, i.at.String(), "the token was used for a different request")
	}
	if old != nil && old.Token == m.Token && old.State == complete {
		return nil
	}
	have, err := i.GetSize()
	if err != nil {
		return err
	}
	if int64(have) != size {
		return fault.Newf(op, fault.Invalid, i.at.String(), "the volume has %d bytes, not %d", have, size)
	}
	if err := i.unused(ctx, op); err != nil {
		return err
	}
	m.Image = i.at.ID
	if err := i.setMark(ctx, overwriteKey, m); err != nil {
		return err
	}
	if err := i.fill(ctx, op, size, true, source); err != nil {
		return err
	}
	if err := i.Flush(); err != nil {
		return err
	}
	m.State = complete
	return i.setMark(ctx, overwriteKey, m)
}

// unused refuses an image that others have open.
func (i *image) unused(ctx context.Context, op string) error {
	return i.cluster.insist(ctx, "overwrite "+i.at.String(), func() error {
		others, err := i.cluster.others(i.Image)
		if err != nil || len(others) == 0 {
			return err
		}
		return fault.Newf(op, fault.Busy, i.at.String(), "clients %v have it open: rbd status %s", others, i.at)
	})
}

// filling writes several blocks at once.
type filling struct {
	image *image
	free  chan []byte
	wait  sync.WaitGroup

	mu    sync.Mutex
	first error
}

// fill writes what source returns. What it leaves out, and its zeros, are zeros on an image that is new, and
// are made zeros on one that is overwritten.
func (i *image) fill(ctx context.Context, op string, size int64, clean bool, source providers.Source) error {
	f := &filling{image: i, free: make(chan []byte, inFlight)}
	for range inFlight {
		f.free <- nil
	}
	err := f.run(ctx, op, size, clean, source)
	f.wait.Wait()
	return cmpError(f.failure(), err)
}

func (f *filling) run(ctx context.Context, op string, size int64, clean bool, source providers.Source) error {
	end, cleaned := int64(0), int64(0)
	zero := func(until int64) error { // what lies between the last data and until
		if !clean || until <= cleaned {
			return nil
		}
		return f.discard(ctx, cleaned, until)
	}
	for {
		if err := cmpError(ctx.Err(), f.failure()); err != nil {
			return err
		}
		block, err := source()
		if errors.Is(err, io.EOF) {
			return zero(size)
		}
		if err != nil {
			return err
		}
		if err := checkBlock(op, block, end, size); err != nil {
			return err
		}
		end = block.End()
		if block.Zero || blank(block.Data) {
			continue
		}
		if err := zero(block.Offset); err != nil {
			return err
		}
		if err := f.write(ctx, block); err != nil {
			return err
		}
		cleaned = end
	}
}

func checkBlock(op string, block providers.Block, end, size int64) error {
	refuse := func(kind fault.Kind, why string) error {
		return fault.Newf(op, kind, "", "block %d+%d: %s", block.Offset, block.Length, why)
	}
	switch {
	case block.Offset < end:
		return refuse(fault.Invalid, "blocks ascend and don't overlap")
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

// write copies the block, whose data is the source's again after this, and writes it behind the caller's
// back; a failure shows at the next block.
func (f *filling) write(ctx context.Context, block providers.Block) error {
	var buffer []byte
	select {
	case buffer = <-f.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	buffer = append(buffer[:0], block.Data...)
	f.wait.Go(func() {
		_, err := f.image.WriteAt(buffer, block.Offset)
		f.fail(err)
		f.free <- buffer
	})
	return nil
}

// granule is the smallest stretch that librbd discards: what is smaller, it leaves as it is.
const granule = 4 << 10

// discard makes zeros, and gives space back; at the ends, where less than a granule is left, it writes them.
func (f *filling) discard(ctx context.Context, from, until int64) error {
	const step = 256 << 20
	inner := min((from+granule-1)/granule*granule, until)
	last := max(until/granule*granule, inner)
	for _, edge := range []providers.Extent{{Offset: from, Length: inner - from}, {Offset: last, Length: until - last}} {
		if edge.Length == 0 {
			continue
		}
		if _, err := f.image.WriteAt(zeros[:edge.Length], edge.Offset); err != nil {
			return err
		}
	}
	for inner < last {
		if err := ctx.Err(); err != nil {
			return err
		}
		length := min(step, last-inner)
		if _, err := f.image.Discard(uint64(inner), uint64(length)); err != nil {
			return err
		}
		inner += length
	}
	return nil
}

func (f *filling) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.first = cmpError(f.first, err)
}

func (f *filling) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}
