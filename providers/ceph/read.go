//go:build cgo && ceph

package ceph

import (
	"context"
	"sync"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// piece is how much is read or written at once, and inFlight how many pieces are: 32 MiB of buffers, and as
// much again in librbd.
const (
	piece    = 4 << 20
	inFlight = 8
)

// Read implements providers.Blocks: several reads at once, told in order. What turns out to be zeros is told
// as zeros.
func (p *Provider) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	const op = "read blocks"
	at, err := readSnapshot(op, request.Snapshot)
	if err != nil {
		return err
	}
	if at.FS != "" {
		return fault.Newf(op, fault.Invalid, at.String(), "it holds files: Attach gives them")
	}
	return guarded(ctx, op, each, func(ctx context.Context, each func(providers.Block) error) error {
		i, s, err := p.openSnapshot(op, at)
		if err != nil {
			return err
		}
		defer i.Close()
		if err := checkExtents(op, at, request.Extents, int64(s.Size)); err != nil {
			return err
		}
		if err := i.readAll(ctx, request.Extents, each); err != nil {
			return wrap(op, at.String(), i.cluster.note(err))
		}
		return i.still(op, moment{})
	})
}

func checkExtents(op string, at moment, extents []providers.Extent, size int64) error {
	if len(extents) > providers.MaxExtents {
		return fault.Newf(op, fault.Invalid, at.String(), "%d extents; at most %d in one request", len(extents), providers.MaxExtents)
	}
	end := int64(0)
	for _, e := range extents {
		if e.Offset < end || e.Length <= 0 || e.Length > size-e.Offset {
			return fault.Newf(op, fault.Invalid, at.String(), "extent %d+%d: extents ascend, are not empty, and lie within %d bytes", e.Offset, e.Length, size)
		}
		end = e.End()
	}
	return nil
}

// reading is a piece on its way.
type reading struct {
	providers.Extent
	buffer []byte
	done   chan error
}

// readAll reads ahead of each by inFlight pieces.
func (i *image) readAll(ctx context.Context, extents []providers.Extent, each func(providers.Block) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait() // the image is closed after the last read
	defer cancel()
	free := make(chan []byte, inFlight)
	for range inFlight {
		free <- nil
	}
	queue := make(chan *reading, inFlight)
	running.Go(func() {
		defer close(queue)
		pieces(extents, func(e providers.Extent) bool {
			select {
			case buffer := <-free:
				r := &reading{Extent: e, buffer: buffer, done: make(chan error, 1)}
				running.Go(func() { r.done <- i.readInto(r) })
				queue <- r
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	for r := range queue {
		select {
		case err := <-r.done:
			if err == nil {
				err = each(r.block())
			}
			if err != nil {
				return err
			}
			free <- r.buffer
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// pieces cuts extents where objects begin, so that one piece is one request to one disk.
func pieces(extents []providers.Extent, take func(providers.Extent) bool) {
	for _, e := range extents {
		for e.Length > 0 {
			length := e.Length
			if !e.Zero {
				length = min(length, piece-e.Offset%piece)
			}
			if !take(providers.Extent{Offset: e.Offset, Length: length, Zero: e.Zero}) {
				return
			}
			e.Offset, e.Length = e.Offset+length, e.Length-length
		}
	}
}

func (i *image) readInto(r *reading) error {
	if r.Zero {
		return nil
	}
	if r.buffer == nil {
		r.buffer = make([]byte, piece)
	}
	_, err := i.ReadAt(r.buffer[:r.Length], r.Offset)
	return err
}

func (r *reading) block() providers.Block {
	if r.Zero || blank(r.buffer[:r.Length]) {
		return providers.ZeroBlock(r.Offset, r.Length)
	}
	return providers.NewBlock(r.Offset, r.buffer[:r.Length])
}

var zeros [64 << 10]byte

// blank reports whether all is zeros.
func blank(data []byte) bool {
	for len(data) > 0 {
		n := min(len(data), len(zeros))
		if string(data[:n]) != string(zeros[:n]) {
			return false
		}
		data = data[n:]
	}
	return true
}
