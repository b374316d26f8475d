package csi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const (
	readUnit  = 64 << 10 // extents are read in whole units of it
	tailUnit  = 512      // but for the end of a volume
	readBlock = 1 << 20  // bytes of one Block at most
	trailer   = "E\n"    // follows the bytes of each span: what is short is noticed before it is passed on
)

// readScript sends the spans that it is asked for: a line with their number, then "unit skip count" each.
const readScript = `set -eu
e=/run/muster/$$.err
trap 'rm -f $e' EXIT
read -r n
while [ "$n" -gt 0 ]; do
	read -r unit skip count
	: >/run/muster/alive
	dd if=` + moverDevice + ` bs="$unit" skip="$skip" count="$count" 2>$e || { cat $e >&2; exit 3; }
	echo E
	n=$((n-1))
done`

// span is a stretch that one dd reads.
type span struct{ unit, offset, length int64 }

// Read implements providers.Blocks.
func (p *Provider) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	const op = "read blocks"
	if err := p.ready(op); err != nil {
		return err
	}
	state, err := p.blocksOf(op, request.Snapshot)
	if err != nil {
		return err
	}
	if err := checkExtents(op, state.id(), request.Extents, state.Size); err != nil {
		return err
	}
	spans := spansOf(request.Extents, state.Size)
	if len(spans) == 0 {
		return eachZero(request.Extents, each)
	}
	mover, release, err := p.readMover(ctx, op, state)
	if err != nil {
		return err
	}
	defer release()
	return p.stream(ctx, op, mover, spans, request.Extents, each)
}

func checkExtents(op, subject string, extents []providers.Extent, size int64) error {
	if len(extents) > providers.MaxExtents {
		return fault.Newf(op, fault.Invalid, subject, "%d extents are more than %d", len(extents), providers.MaxExtents)
	}
	end := int64(0)
	for _, e := range extents {
		if e.Length <= 0 || e.Offset < end || e.Length > size-e.Offset {
			return fault.Newf(op, fault.Invalid, subject, "extent %d+%d does not ascend, or is not within %d bytes", e.Offset, e.Length, size)
		}
		end = e.End()
	}
	return nil
}

func eachZero(extents []providers.Extent, each func(providers.Block) error) error {
	for _, e := range extents {
		if err := each(providers.ZeroBlock(e.Offset, e.Length)); err != nil {
			return err
		}
	}
	return nil
}

// spansOf joins extents that are near each other: one more dd costs more than some bytes that nobody wants.
func spansOf(extents []providers.Extent, size int64) []span {
	var out []span
	whole := size / readUnit * readUnit // what lies behind it is no whole unit
	for _, e := range extents {
		if e.Zero {
			continue
		}
		start := e.Offset / readUnit * readUnit
		end := (e.End() + readUnit - 1) / readUnit * readUnit
		if start < whole {
			out = appendSpan(out, span{readUnit, start, min(end, whole) - start})
		}
		if end > whole {
			tail := max(start, whole)
			out = appendSpan(out, span{tailUnit, tail, (size - tail + tailUnit - 1) / tailUnit * tailUnit})
		}
	}
	return out
}

const nearby = 256 << 10

func appendSpan(spans []span, s span) []span {
	if len(spans) == 0 {
		return append(spans, s)
	}
	last := &spans[len(spans)-1]
	if last.unit != s.unit || s.offset-(last.offset+last.length) > nearby {
		return append(spans, s)
	}
	last.length = max(last.length, s.offset+s.length-last.offset)
	return spans
}

// readMover is a mover that has the snapshot's clone as its device.
func (p *Provider) readMover(ctx context.Context, op string, state snapshotState) (name string, release func(), err error) {
	class, err := p.storageClass(ctx, op, state.Class)
	if err != nil {
		return "", nil, err
	}
	imported, err := p.imported(ctx, op, state)
	if err != nil {
		return "", nil, err
	}
	size := quantity(state.Size)
	if restore := imported.Status.RestoreSize; restore != nil && restore.Cmp(size) > 0 {
		size = *restore
	}
	block := corev1.PersistentVolumeBlock
	clone := &corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class.Name, VolumeMode: &block,
		DataSource: snapshotSource(imported.Name), Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: size}},
	}
	name = moverName(state)
	release, err = p.movers.acquire(ctx, op, moverPod{name: name, clone: clone, late: waitsForConsumer(class), mode: block})
	return name, release, err
}

// stream reads the spans from the mover and passes the extents' bytes on, at the pace of each.
func (p *Provider) stream(ctx context.Context, op, mover string, spans []span, extents []providers.Extent, each func(providers.Block) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wanted strings.Builder
	fmt.Fprintf(&wanted, "%d\n", len(spans))
	for _, s := range spans {
		fmt.Fprintf(&wanted, "%d %d %d\n", s.unit, s.offset/s.unit, s.length/s.unit)
	}
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := p.exec(ctx, op, mover, readScript, strings.NewReader(wanted.String()), in)
		in.CloseWithError(err)
		ended <- err
	}()
	c := &cutter{op: op, subject: mover, in: bufio.NewReaderSize(out, readUnit), extents: slices.Clone(extents), each: each}
	err := c.run(spans)
	if err != nil {
		cancel(err)
		out.CloseWithError(err)
	}
	if problem := <-ended; problem != nil && (err == nil || errors.Is(err, errShort)) {
		return problem
	}
	if errors.Is(err, errShort) {
		return fault.New(op, fault.Corrupt, mover, err)
	}
	return err
}

var errShort = errors.New("the device gave fewer bytes than the snapshot has")

// cutter cuts the extents out of the spans.
type cutter struct {
	op, subject string
	in          *bufio.Reader
	extents     []providers.Extent // those that are still wanted
	each        func(providers.Block) error
	held        providers.Block // waits for the end of its span
	holds       bool
	buffers     [2][]byte
	turn        int
}

func (c *cutter) run(spans []span) error {
	for _, s := range spans {
		if err := c.span(s); err != nil {
			return err
		}
	}
	return c.zeros(1<<63 - 1)
}

// zeros passes on the extents before an offset that are zeros without being read.
func (c *cutter) zeros(before int64) error {
	for len(c.extents) > 0 && c.extents[0].Zero && c.extents[0].Offset < before {
		if err := c.each(providers.ZeroBlock(c.extents[0].Offset, c.extents[0].Length)); err != nil {
			return err
		}
		c.extents = c.extents[1:]
	}
	return nil
}

func (c *cutter) span(s span) error {
	at, end := s.offset, s.offset+s.length
	for at < end {
		if err := c.zerosHeld(at); err != nil {
			return err
		}
		if len(c.extents) == 0 || c.extents[0].Offset >= end {
			if err := c.skip(end - at); err != nil {
				return err
			}
			break
		}
		e := &c.extents[0]
		if e.Offset > at {
			if err := c.skip(e.Offset - at); err != nil {
				return err
			}
			at = e.Offset
			continue
		}
		n := min(e.Length, end-at, readBlock)
		if err := c.take(at, n); err != nil {
			return err
		}
		at += n
		if e.Offset, e.Length = at, e.Length-n; e.Length == 0 {
			c.extents = c.extents[1:]
		}
	}
	mark := make([]byte, len(trailer))
	if _, err := io.ReadFull(c.in, mark); err != nil || string(mark) != trailer {
		return errShort
	}
	return c.pass()
}

// zerosHeld is zeros for extents that follow what is held.
func (c *cutter) zerosHeld(at int64) error {
	if len(c.extents) == 0 || !c.extents[0].Zero || c.extents[0].Offset > at {
		return nil
	}
	if err := c.pass(); err != nil {
		return err
	}
	return c.zeros(at + 1)
}

func (c *cutter) skip(n int64) error {
	if _, err := io.CopyN(io.Discard, c.in, n); err != nil {
		return errShort
	}
	return nil
}

// take reads a block, passes on the one before it, and holds this one.
func (c *cutter) take(offset, n int64) error {
	buffer := c.buffers[c.turn]
	if int64(cap(buffer)) < n {
		buffer = make([]byte, readBlock)
		c.buffers[c.turn] = buffer
	}
	c.turn = 1 - c.turn
	data := buffer[:n]
	if _, err := io.ReadFull(c.in, data); err != nil {
		return errShort
	}
	if err := c.pass(); err != nil {
		return err
	}
	c.held, c.holds = blockOf(offset, data), true
	return nil
}

func (c *cutter) pass() error {
	if !c.holds {
		return nil
	}
	c.holds = false
	return c.each(c.held)
}

func blockOf(offset int64, data []byte) providers.Block {
	if isZero(data) {
		return providers.ZeroBlock(offset, int64(len(data)))
	}
	return providers.NewBlock(offset, data)
}

func isZero(data []byte) bool {
	return len(bytes.TrimLeft(data, "\x00")) == 0
}
