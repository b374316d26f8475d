package repository

import (
	"context"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

// ChunkBytes is the size of an image's chunks; the last one is shorter where the image ends.
const ChunkBytes = 1 << 20

// Image is a stored image of a block volume: one file, made of chunks that images share. Its digest is
// that of docs/formats/repository.md, "Images".
type Image struct {
	Object Object `json:"object"` // image.raw; its SHA256 is empty
	Chunks Object `json:"chunks"` // image.chunks, the list of its chunks
	Digest string `json:"digest"` // by RuleChunks
}

// ImageStats counts what became of an image's chunks, and their bytes.
type ImageStats struct {
	Written   int64 `json:"written"`   // chunks that were stored, or found stored already under their hash
	Unchanged int64 `json:"unchanged"` // chunks that were written and hold what the base's hold
	Reused    int64 `json:"reused"`    // chunks taken from the base without being looked at
	Zero      int64 `json:"zero"`      // chunks of zeros

	WrittenBytes int64 `json:"writtenBytes"`
	ReusedBytes  int64 `json:"reusedBytes"` // of Unchanged and Reused
	ZeroBytes    int64 `json:"zeroBytes"`
}

// ImageConfig says what an image is made from.
type ImageConfig struct {
	Size int64 // bytes
	// Base is an earlier image of the volume: what is not written is as in the base. Without one it is
	// zeros. The base may be of another size.
	Base *Image
}

// ImageWriter makes an image of what is written, in ascending order. It is not safe for concurrent use.
// One of Commit and Abort must be called. Its memory does not depend on the image's size.
type ImageWriter struct {
	ctx  context.Context
	repo *Repository
	name string
	size int64
	base *baseCursor

	at      int64 // the end of what was written
	next    int64 // the first chunk that is not on its way
	filling *filling
	workers *errgroup.Group
	cancel  context.CancelFunc
	pending []*piece
	buffers chan []byte
	zeros   *zeroObjects
	index   *imageIndex
	list    *listWriter
	stats   ImageStats
	closed  bool
}

// imageParallel is how many chunks of one image are hashed, compressed and stored, or read, at once.
// More than there are cores, because some of them wait for the repository's server.
func imageParallel() int { return min(max(2*runtime.GOMAXPROCS(0), 4), 16) }

// NewImage begins an image. The name is for errors and kopia's logs.
//
// With a base, its list of chunks is read through and the presence of all their content is checked:
// fault.Corrupt or fault.NotFound when the base cannot be relied on; the caller then takes a full image.
// The base must have been flushed.
func (r *Repository) NewImage(ctx context.Context, name string, config ImageConfig) (*ImageWriter, error) {
	if config.Size < 0 {
		return nil, fault.Newf("store image", fault.Invalid, name, "its size is %d", config.Size)
	}
	base, err := r.openBase(ctx, name, config.Base)
	if err != nil {
		return nil, err
	}
	session, err := r.session(ctx)
	if err != nil {
		base.close()
		return nil, err
	}
	list, err := r.newListWriter(ctx, name, config.Size)
	if err != nil {
		base.close()
		return nil, err
	}
	working, cancel := context.WithCancel(ctx)
	workers := &errgroup.Group{} // one failure must not cut others off: the first in order is the one to tell
	workers.SetLimit(imageParallel())
	zeros := &zeroObjects{repo: r, ids: map[int64]string{}}
	w := &ImageWriter{
		ctx: working, repo: r, name: name, size: config.Size, base: base, workers: workers, cancel: cancel,
		buffers: make(chan []byte, 2*imageParallel()), zeros: zeros, list: list,
		index: &imageIndex{objectIndex: newObjectIndex(working, session, r, name), bytes: config.Size, zeros: zeros},
	}
	return w, nil
}

// Write writes data at an offset, which must not lie before the end of an earlier Write or Zero. The
// data is copied.
func (w *ImageWriter) Write(offset int64, data []byte) error {
	if err := w.check(offset, int64(len(data))); err != nil {
		return err
	}
	for len(data) > 0 {
		if err := w.fill(offset / ChunkBytes); err != nil {
			return err
		}
		part := w.filling.cover(offset, int64(len(data)))
		copy(part, data)
		data, offset = data[len(part):], offset+int64(len(part))
	}
	return nil
}

// Zero says that a stretch reads as zeros; the order is that of Write.
func (w *ImageWriter) Zero(offset, length int64) error {
	if err := w.check(offset, length); err != nil {
		return err
	}
	for length > 0 {
		n, err := w.zero(offset, length)
		if err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// zero takes whole chunks, or what there is of one.
func (w *ImageWriter) zero(offset, length int64) (int64, error) {
	index := offset / ChunkBytes
	whole := length / ChunkBytes
	if offset+length == w.size && length%ChunkBytes != 0 {
		whole++ // the last chunk is short
	}
	if offset%ChunkBytes == 0 && whole > 0 {
		if err := w.advance(index); err != nil {
			return 0, err
		}
		w.next = index + whole
		return min(whole*ChunkBytes, length), w.push(&piece{first: index, count: whole, chunk: chunk{zero: true}})
	}
	if err := w.fill(index); err != nil {
		return 0, err
	}
	part := w.filling.cover(offset, length)
	clear(part)
	return int64(len(part)), nil
}

func (w *ImageWriter) check(offset, length int64) error {
	if w.closed {
		return fault.Newf("store image", fault.Internal, w.name, "it was committed or aborted")
	}
	if offset < w.at || length < 0 || offset > w.size || length > w.size-offset {
		return fault.Newf("store image", fault.Invalid, w.name,
			"a stretch of %d bytes at %d comes after one that ends at %d, in %d bytes", length, offset, w.at, w.size)
	}
	w.at = offset + length
	return nil
}

// fill makes a chunk the one that is being filled.
func (w *ImageWriter) fill(index int64) error {
	if w.filling != nil && w.filling.index == index {
		return nil
	}
	if err := w.advance(index); err != nil {
		return err
	}
	var buffer []byte
	select {
	case buffer = <-w.buffers:
	default:
		buffer = make([]byte, ChunkBytes)
	}
	w.filling = &filling{index: index, start: index * ChunkBytes, data: buffer[:chunkLength(w.size, index)]}
	return nil
}

// advance hands on the chunk that is being filled, and takes those before a chunk from the base.
func (w *ImageWriter) advance(to int64) error {
	if f := w.filling; f != nil {
		w.filling = nil
		w.next = f.index + 1
		if err := w.submit(f); err != nil {
			return err
		}
	}
	for w.next < to {
		c, n, err := w.base.run(w.next, to-w.next)
		if err != nil {
			return err
		}
		if !c.zero && w.base.length(w.next) != chunkLength(w.size, w.next) {
			err = w.resize(c)
		} else {
			err = w.push(&piece{first: w.next, count: n, chunk: c, reused: true})
		}
		if err != nil {
			return err
		}
		w.next += n
	}
	return nil
}

// resize takes the chunk in which the base ends, or the image does, to its new length.
func (w *ImageWriter) resize(c chunk) error {
	f := &filling{index: w.next, start: w.next * ChunkBytes, data: make([]byte, chunkLength(w.size, w.next))}
	f.base, f.baseLength = c, w.base.length(w.next)
	return w.start(f)
}

// submit hands a filled chunk to the workers.
func (w *ImageWriter) submit(f *filling) error {
	c, _, err := w.base.run(f.index, 1)
	if err != nil {
		return err
	}
	f.base, f.baseLength = c, w.base.length(f.index)
	return w.start(f)
}

func (w *ImageWriter) start(f *filling) error {
	if err := w.repo.room.take(len(f.data)); err != nil {
		return err
	}
	p := &piece{first: f.index, count: 1, done: make(chan struct{})}
	w.workers.Go(func() error {
		defer close(p.done)
		p.chunk, p.reused, p.err = w.work(f)
		select {
		case w.buffers <- f.data[:cap(f.data)]:
		default:
		}
		return p.err
	})
	return w.push(p)
}

// push queues a piece and settles those at the head of the queue that are too many.
func (w *ImageWriter) push(p *piece) error {
	w.pending = append(w.pending, p)
	for len(w.pending) > cap(w.buffers) {
		if err := w.settle(); err != nil {
			return err
		}
	}
	return nil
}

// settle writes the first pending piece into list and index.
func (w *ImageWriter) settle() error {
	p := w.pending[0]
	w.pending = w.pending[1:]
	if p.done != nil {
		<-p.done
	}
	if p.err != nil {
		return p.err
	}
	w.count(p)
	if err := w.list.add(p.first, p.count, p.chunk); err != nil {
		return err
	}
	return w.index.add(p.first, p.count, p.chunk)
}

func (w *ImageWriter) count(p *piece) {
	bytes := min((p.first+p.count)*ChunkBytes, w.size) - p.first*ChunkBytes
	switch {
	case p.chunk.zero:
		w.stats.Zero += p.count
		w.stats.ZeroBytes += bytes
	case p.reused && p.done == nil:
		w.stats.Reused += p.count
		w.stats.ReusedBytes += bytes
	case p.reused:
		w.stats.Unchanged += p.count
		w.stats.ReusedBytes += bytes
	default:
		w.stats.Written += p.count
		w.stats.WrittenBytes += bytes
	}
}

// Commit ends the image. It is durable after Flush, and kept as long as a recovery point holds both of
// its objects.
func (w *ImageWriter) Commit() (Image, ImageStats, error) {
	defer w.Abort()
	if err := w.advance(chunkCount(w.size)); err != nil {
		return Image{}, ImageStats{}, err
	}
	for len(w.pending) > 0 {
		if err := w.settle(); err != nil {
			return Image{}, ImageStats{}, err
		}
	}
	id, err := w.index.commit()
	if err != nil {
		return Image{}, ImageStats{}, err
	}
	chunks, digest, err := w.list.commit()
	if err != nil {
		return Image{}, ImageStats{}, err
	}
	return Image{Object: Object{ID: id, Size: w.size}, Chunks: chunks, Digest: digest}, w.stats, nil
}

// Abort gives the image up. After Commit it does nothing.
func (w *ImageWriter) Abort() {
	if w.closed {
		return
	}
	w.closed = true
	w.cancel()
	_ = w.workers.Wait() // its errors were returned by the call that settled them
	w.index.abort()
	w.list.abort()
	w.base.close()
}
