package conformance

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/musterdr/muster/providers"
)

// picture is the content that a block volume must have: the truth that every case compares with.
type picture []byte

const pieceSize = 64 << 10

// up is the next multiple of the alignment.
func (c *scope) up(n int64) int64 { return (n + c.config.Align - 1) / c.config.Align * c.config.Align }

// picture is a sparse one: data at both ends, in two places between, and holes.
func (c *scope) picture(seed uint64) picture {
	p := make(picture, c.config.Size)
	half := c.up(c.config.Size / 2)
	c.paint(p, seed, 0, pieceSize)
	c.paint(p, seed+1, 4*pieceSize, 7*pieceSize)
	c.paint(p, seed+2, half, half+2*pieceSize)
	c.paint(p, seed+3, c.config.Size-pieceSize, c.config.Size)
	return p
}

// paint fills a stretch, whose ends are moved outwards to the alignment, with noise without zeros.
func (c *scope) paint(p picture, seed uint64, from, to int64) providers.Extent {
	from = from / c.config.Align * c.config.Align
	to = min(c.up(to), int64(len(p)))
	noise := rand.New(rand.NewPCG(seed, 4)) //nolint:gosec // test data, the same in every run
	for i := from; i < to; i++ {
		p[i] = byte(noise.Uint32()%255) + 1
	}
	return providers.Extent{Offset: from, Length: to - from}
}

// repaint is the picture after an application has worked on it: data replaced, added and made zeros; and
// the stretches that it wrote.
func (c *scope) repaint(p picture, seed uint64) (picture, []providers.Extent) {
	after := slices.Clone(p)
	quarter := c.config.Size / 4
	written := []providers.Extent{
		c.paint(after, seed, 0, 1),
		c.paint(after, seed+1, quarter+pieceSize, quarter+2*pieceSize),
	}
	zeroed := providers.Extent{Offset: c.up(4 * pieceSize), Length: c.up(pieceSize)}
	clear(after[zeroed.Offset:zeroed.End()])
	return after, []providers.Extent{written[0], zeroed, written[1]}
}

// source gives the picture as blocks: data in pieces, some holes as blocks of zeros, others left out.
func (c *scope) source(p picture) providers.Source {
	step := c.up(pieceSize)
	at, holes := int64(0), 0
	return func() (providers.Block, error) {
		for at < int64(len(p)) {
			from := at
			to := min(at+step, int64(len(p)))
			at = to
			if !blank(p[from:to]) {
				return providers.NewBlock(from, p[from:to]), nil
			}
			if holes++; holes%2 == 0 {
				return providers.ZeroBlock(from, to-from), nil
			}
		}
		return providers.Block{}, io.EOF
	}
}

func blank(data []byte) bool {
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}

// differs is the first offset at which two contents differ, -1 when they are equal.
func differs(a, b []byte) int64 {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return int64(i)
		}
	}
	return int64(min(len(a), len(b)))
}

// collect puts blocks where they belong and holds them to what Read promises.
type collect struct {
	c     *scope
	op    string
	into  picture
	left  []providers.Extent // what is still expected
	broke bool
}

func (r *collect) take(b providers.Block) error {
	fail := func(format string, args ...any) {
		if !r.broke {
			r.c.Errorf(r.op+": "+format, args...)
		}
		r.broke = true
	}
	switch {
	case len(r.left) == 0:
		fail("block %d+%d was not asked for", b.Offset, b.Length)
	case b.Offset != r.left[0].Offset || b.Length <= 0 || b.Length > r.left[0].Length:
		fail("block %d+%d; expected the next of %d+%d: blocks ascend and are exactly the extents", b.Offset, b.Length, r.left[0].Offset, r.left[0].Length)
	case b.Zero && (len(b.Data) != 0):
		fail("block %d+%d of zeros has data", b.Offset, b.Length)
	case !b.Zero && int64(len(b.Data)) != b.Length:
		fail("block %d+%d has %d bytes of data", b.Offset, b.Length, len(b.Data))
	case !b.Zero && b.Length > providers.MaxBlock:
		fail("block %d+%d is larger than %d", b.Offset, b.Length, providers.MaxBlock)
	case !b.Zero && providers.Sum(b.Data) != b.CRC:
		fail("block %d+%d: the checksum does not fit the data", b.Offset, b.Length)
	}
	if r.broke {
		return errStop
	}
	clear(r.into[b.Offset:b.End()])
	copy(r.into[b.Offset:], b.Data)
	r.left[0] = providers.Extent{Offset: b.End(), Length: r.left[0].Length - b.Length}
	if r.left[0].Length == 0 {
		r.left = r.left[1:]
	}
	return nil
}

// read puts extents of a snapshot into a picture, and reports whether all was as promised.
func (c *scope) read(p providers.Provider, snapshot providers.Handle, extents []providers.Extent, into picture) bool {
	for chunk := range slices.Chunk(extents, providers.MaxExtents) {
		r := &collect{c: c, op: "read", into: into, left: slices.Clone(chunk)}
		err := p.Read(c.ctx, providers.ReadRequest{Snapshot: snapshot, Extents: chunk}, r.take)
		if r.broke {
			return false
		}
		c.must("read", err)
		if len(r.left) > 0 {
			c.Errorf("read: it ended before %d+%d", r.left[0].Offset, r.left[0].Length)
			return false
		}
	}
	return true
}

// holds compares all of a snapshot with a picture.
func (c *scope) holds(p providers.Provider, snapshot providers.Handle, want picture) {
	got := make(picture, len(want))
	if !c.read(p, snapshot, []providers.Extent{{Length: int64(len(want))}}, got) {
		return
	}
	if at := differs(got, want); at >= 0 {
		c.Errorf("content differs from what was written at byte %d", at)
	}
}

// volumeHolds compares a volume with a picture, by a snapshot of it.
func (c *scope) volumeHolds(p providers.Provider, v providers.Volume, want picture) {
	if !c.info.Can(providers.CapSnapshot) || !c.info.Can(providers.CapRead) {
		c.Logf("the content of %s was not compared: the provider does not claim %q and %q", v.ID, providers.CapSnapshot, providers.CapRead)
		return
	}
	c.holds(p, c.snapshot(p, v).Handle, want)
}
