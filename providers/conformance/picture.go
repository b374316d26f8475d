package conformance

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/musterdr/muster/providers"
)

// picture is the content that a block volume must have: the truth that every case compares with. It keeps
// pieces that are not zeros alone, so that a volume may be large.
type picture struct {
	size   int64
	pieces map[int64][]byte // by their index; pieceSize bytes each
}

const pieceSize = 64 << 10

// blankPicture is one of zeros.
func blankPicture(size int64) picture { return picture{size: size, pieces: map[int64][]byte{}} }

func (p picture) clone() picture {
	c := blankPicture(p.size)
	for i, piece := range p.pieces {
		c.pieces[i] = slices.Clone(piece)
	}
	return c
}

// set puts data in its place; nil: zeros.
func (p picture) set(e providers.Extent, data []byte) {
	for at := e.Offset; at < e.End(); {
		index := at / pieceSize
		end := min((index+1)*pieceSize, e.End())
		piece := p.pieces[index]
		switch {
		case data == nil && piece != nil:
			clear(piece[at-index*pieceSize : end-index*pieceSize])
		case data != nil:
			if piece == nil {
				piece = make([]byte, pieceSize)
				p.pieces[index] = piece
			}
			copy(piece[at-index*pieceSize:], data[at-e.Offset:end-e.Offset])
		}
		at = end
	}
}

// bytes are those of a stretch.
func (p picture) bytes(e providers.Extent) []byte {
	data := make([]byte, e.Length)
	for index := e.Offset / pieceSize; index*pieceSize < e.End(); index++ {
		piece, start := p.pieces[index], index*pieceSize
		switch {
		case piece == nil:
		case start < e.Offset:
			copy(data, piece[e.Offset-start:])
		default:
			copy(data[start-e.Offset:], piece)
		}
	}
	return data
}

// differs is the first offset at which two pictures differ; -1 when they are equal.
func differs(a, b picture) int64 {
	indices := maps.Clone(a.pieces)
	maps.Copy(indices, b.pieces)
	for _, index := range slices.Sorted(maps.Keys(indices)) {
		e := providers.Extent{Offset: index * pieceSize, Length: pieceSize}
		x, y := a.bytes(e), b.bytes(e)
		if bytes.Equal(x, y) {
			continue
		}
		for i := range x {
			if x[i] != y[i] {
				return e.Offset + int64(i)
			}
		}
	}
	if a.size != b.size {
		return min(a.size, b.size)
	}
	return -1
}

// blank reports whether a stretch is zeros.
func (p picture) blank(e providers.Extent) bool {
	for index := e.Offset / pieceSize; index*pieceSize < e.End(); index++ {
		piece, start := p.pieces[index], index*pieceSize
		if piece == nil {
			continue
		}
		from, to := max(e.Offset-start, 0), min(e.End()-start, pieceSize)
		if slices.ContainsFunc(piece[from:to], func(b byte) bool { return b != 0 }) {
			return false
		}
	}
	return true
}

// up is the next multiple of the alignment.
func (c *scope) up(n int64) int64 { return (n + c.config.Align - 1) / c.config.Align * c.config.Align }

// picture is a sparse one: data at both ends, in two places between, and holes.
func (c *scope) picture(seed uint64) picture {
	p := blankPicture(c.config.Size)
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
	to = min(c.up(to), p.size)
	noise := rand.New(rand.NewPCG(seed, 4))
	data := make([]byte, to-from)
	for i := range data {
		data[i] = byte(noise.Uint32()%255) + 1
	}
	e := providers.Extent{Offset: from, Length: to - from}
	p.set(e, data)
	return e
}

// repaint is the picture after an application has worked on it: data replaced, added and made zeros; and
// the stretches that it wrote.
func (c *scope) repaint(p picture, seed uint64) (picture, []providers.Extent) {
	after := p.clone()
	quarter := c.config.Size / 4
	first := c.paint(after, seed, 0, 1)
	last := c.paint(after, seed+1, quarter+pieceSize, quarter+2*pieceSize)
	zeroed := providers.Extent{Offset: c.up(4 * pieceSize), Length: c.up(pieceSize)}
	after.set(zeroed, nil)
	return after, []providers.Extent{first, zeroed, last}
}

// source gives the picture as blocks: data in pieces; of the holes, every other one as a block of zeros.
func (c *scope) source(p picture) providers.Source {
	step := c.up(pieceSize)
	at, holes := int64(0), 0
	piece := func(from int64) providers.Extent {
		return providers.Extent{Offset: from, Length: min(step, p.size-from)}
	}
	return func() (providers.Block, error) {
		for at < p.size {
			hole := at
			for at < p.size && p.blank(piece(at)) {
				at += piece(at).Length
			}
			if at > hole {
				if holes++; holes%2 == 0 {
					return providers.ZeroBlock(hole, at-hole), nil
				}
				continue
			}
			e := piece(at)
			at = e.End()
			return providers.NewBlock(e.Offset, p.bytes(e)), nil
		}
		return providers.Block{}, io.EOF
	}
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
	r.into.set(b.Extent, b.Data)
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
	got := blankPicture(want.size)
	if !c.read(p, snapshot, []providers.Extent{{Length: want.size}}, got) {
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
