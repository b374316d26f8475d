package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"sync"

	"github.com/kopia/kopia/repo/object"

	"github.com/musterdr/muster/providers/fault"
)

// chunk is the content of one place in an image: zeros, or an object.
type chunk struct {
	zero bool
	id   object.ID
	sum  [sha256.Size]byte
}

// piece is a stretch of an image on its way into list and index: chunks that are alike.
type piece struct {
	first, count int64
	chunk        chunk
	reused       bool          // the content is the base's
	done         chan struct{} // nil when the chunk is known from the start
	err          error
}

// span is a stretch of a chunk.
type span struct{ from, to int64 }

// filling is a chunk that is being filled in ascending order.
type filling struct {
	index, start int64
	data         []byte // as long as the chunk
	have         int64  // where the next byte is expected
	gaps         []span // what was left out before that: the base's
	base         chunk
	baseLength   int64
}

// cover returns the part of the chunk that a stretch of the image covers, for the caller to fill.
func (f *filling) cover(offset, length int64) []byte {
	from := offset - f.start
	to := min(from+length, int64(len(f.data)))
	if from > f.have {
		f.gaps = append(f.gaps, span{f.have, from})
	}
	f.have = to
	return f.data[from:to]
}

func chunkCount(size int64) int64 { return (size + ChunkBytes - 1) / ChunkBytes }

// chunkLength is the length of a chunk of an image; 0 beyond its end.
func chunkLength(size, index int64) int64 {
	return max(min(size-index*ChunkBytes, ChunkBytes), 0)
}

// work completes a chunk from the base, and stores it when it is new.
func (w *ImageWriter) work(f *filling) (_ chunk, reused bool, _ error) {
	if f.have < int64(len(f.data)) {
		f.gaps = append(f.gaps, span{f.have, int64(len(f.data))})
	}
	if err := w.fillGaps(f); err != nil {
		return chunk{}, false, err
	}
	if isZero(f.data) {
		return chunk{zero: true}, false, nil
	}
	sum := sha256.Sum256(f.data)
	if !f.base.zero && f.base.sum == sum && f.baseLength == int64(len(f.data)) {
		return f.base, true, nil
	}
	id, err := w.repo.putChunk(w.ctx, w.name, f.data, splitChunk)
	return chunk{id: id, sum: sum}, false, err
}

func (w *ImageWriter) fillGaps(f *filling) error {
	if len(f.gaps) == 0 {
		return nil
	}
	var base []byte
	if !f.base.zero {
		read, err := w.repo.readChunk(w.ctx, w.name, f.index, f.base, f.baseLength)
		if err != nil {
			return err
		}
		base = read
	}
	for _, gap := range f.gaps {
		into := f.data[gap.from:gap.to]
		n := copy(into, base[min(gap.from, int64(len(base))):])
		clear(into[n:])
	}
	return nil
}

// The splitters that never cut a chunk, or a run of zeros.
const (
	splitChunk = "FIXED-1M"
	splitZeros = "FIXED-8M"
	zeroRun    = 8 // chunks of zeros that one object holds, where there are so many
)

// putChunk stores a chunk as one content, so that its object ID is a direct one.
func (r *Repository) putChunk(ctx context.Context, name string, data []byte, split string) (object.ID, error) {
	session, err := r.session(ctx)
	if err != nil {
		return object.EmptyID, err
	}
	out := session.NewObjectWriter(ctx, object.WriterOptions{Description: name, Compressor: compressor, Splitter: split})
	defer out.Close() // it only frees memory
	if _, err := out.Write(data); err != nil {
		return object.EmptyID, r.config.fail("store image "+name, err)
	}
	id, err := out.Result()
	return id, r.config.fail("store image "+name, err)
}

// readChunk reads a chunk and compares its digest. Its error names the place.
func (r *Repository) readChunk(ctx context.Context, name string, index int64, c chunk, length int64) ([]byte, error) {
	data, err := r.readObject(ctx, c.id, length)
	if err != nil {
		return nil, fault.Newf("read image", fault.KindOf(err), name, "chunk %d, %d bytes at %d: %w", index, length, index*ChunkBytes, err)
	}
	if sha256.Sum256(data) != c.sum {
		return nil, fault.Newf("read image", fault.Corrupt, name, "chunk %d, %d bytes at %d: its content does not have its digest", index, length, index*ChunkBytes)
	}
	return data, nil
}

func (r *Repository) readObject(ctx context.Context, id object.ID, length int64) ([]byte, error) {
	from, err := r.reading(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := from.OpenObject(ctx, id)
	if err != nil {
		return nil, r.config.fail("read object "+id.String(), err)
	}
	defer opened.Close()
	if opened.Length() != length {
		return nil, fault.Newf("read object", fault.Corrupt, id.String(), "it has %d bytes and should have %d", opened.Length(), length)
	}
	data := make([]byte, length)
	_, err = io.ReadFull(opened, data)
	return data, r.config.fail("read object "+id.String(), err)
}

// zeroes is what chunks are compared with.
var zeroes [64 << 10]byte

func isZero(data []byte) bool {
	for len(data) > 0 {
		n := min(len(data), len(zeroes))
		if !bytes.Equal(data[:n], zeroes[:n]) {
			return false
		}
		data = data[n:]
	}
	return true
}

// zeroSum is the digest of a whole chunk of zeros.
var zeroSum = sync.OnceValue(func() [sha256.Size]byte { return sumOfZeros(ChunkBytes) })

func sumOfZeros(length int64) (sum [sha256.Size]byte) {
	digest := sha256.New()
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		digest.Write(zeroes[:n])
		length -= n
	}
	digest.Sum(sum[:0])
	return sum
}

// zeroObjects stores each length of zeros once an image.
type zeroObjects struct {
	repo *Repository
	ids  map[int64]string
}

func (z *zeroObjects) id(ctx context.Context, name string, length int64) (string, error) {
	if id, ok := z.ids[length]; ok {
		return id, nil
	}
	id, err := z.repo.putChunk(ctx, name, make([]byte, length), splitZeros)
	if err != nil {
		return "", err
	}
	z.ids[length] = id.String()
	return z.ids[length], nil
}
