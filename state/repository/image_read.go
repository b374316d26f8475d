package repository

import (
	"context"
	"errors"
	"io"

	"github.com/musterdr/muster/providers/fault"
)

// Stretch is a part of an image. Data is nil where it is zeros.
type Stretch struct {
	Offset int64
	Length int64
	Data   []byte // at most ChunkBytes
}

// ImageReader reads an image in ascending stretches. It is not safe for concurrent use.
type ImageReader struct {
	ctx    context.Context
	cancel context.CancelFunc
	repo   *Repository
	name   string
	image  Image
	file   *Reader
	list   *listReader
	ended  bool
	ahead  []*reading
}

// reading is a stretch that is being read.
type reading struct {
	stretch Stretch
	err     error
	done    chan struct{}
}

// OpenImage opens an image for reading. Its list of chunks is read through and compared with the
// image's digest first: fault.Corrupt when it does not match or content is missing. Close it.
func (r *Repository) OpenImage(ctx context.Context, name string, image Image) (*ImageReader, error) {
	if err := r.checkList(ctx, name, image, func(chunk) error { return nil }); err != nil {
		return nil, err
	}
	file, list, err := r.openList(ctx, name, image)
	if err != nil {
		return nil, err
	}
	reading, cancel := context.WithCancel(ctx)
	return &ImageReader{ctx: reading, cancel: cancel, repo: r, name: name, image: image, file: file, list: list}, nil
}

// Next returns the next stretch, and io.EOF after the last. Chunks are read ahead in parallel; each is
// compared with its digest, and fault.Corrupt names the first one that does not match. Runs of zeros
// come as one stretch and are not read.
func (i *ImageReader) Next() (Stretch, error) {
	for !i.ended && len(i.ahead) < imageParallel() {
		if err := i.readAhead(); err != nil {
			return Stretch{}, err
		}
	}
	if len(i.ahead) == 0 {
		return Stretch{}, io.EOF
	}
	first := i.ahead[0]
	i.ahead = i.ahead[1:]
	<-first.done
	return first.stretch, first.err
}

// Each calls each with every stretch, in order.
func (i *ImageReader) Each(each func(Stretch) error) error {
	for {
		stretch, err := i.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(stretch); err != nil {
			return err
		}
	}
}

func (i *ImageReader) readAhead() error {
	index := i.list.at
	c, n, err := i.list.next(chunkCount(i.image.Object.Size))
	if errors.Is(err, io.EOF) {
		i.ended = true
		return nil
	}
	if err != nil {
		return i.repo.listFailed(i.name, err)
	}
	offset := index * ChunkBytes
	next := &reading{stretch: Stretch{Offset: offset, Length: min(offset+n*ChunkBytes, i.image.Object.Size) - offset}, done: make(chan struct{})}
	i.ahead = append(i.ahead, next)
	if c.zero {
		close(next.done)
		return nil
	}
	go func() {
		defer close(next.done)
		next.stretch.Data, next.err = i.repo.readChunk(i.ctx, i.name, index, c, next.stretch.Length)
	}()
	return nil
}

// Close ends reading.
func (i *ImageReader) Close() error {
	i.cancel()
	for _, open := range i.ahead {
		<-open.done
	}
	i.ahead, i.ended = nil, true
	return i.file.Close()
}

// openList opens an image's list and compares its first line with the image.
func (r *Repository) openList(ctx context.Context, name string, image Image) (*Reader, *listReader, error) {
	file, err := r.Open(ctx, image.Chunks.ID)
	if err != nil {
		return nil, nil, r.listFailed(name, err)
	}
	list, err := newListReader(file)
	if err == nil && list.size != image.Object.Size {
		err = damaged("it is of an image of %d bytes, not of %d", list.size, image.Object.Size)
	}
	if err != nil {
		file.Close()
		return nil, nil, r.listFailed(name, err)
	}
	return file, list, nil
}

// checkList reads an image's list through. each gets every chunk that is not zeros.
func (r *Repository) checkList(ctx context.Context, name string, image Image, each func(chunk) error) error {
	file, list, err := r.openList(ctx, name, image)
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		c, _, err := list.next(chunkCount(image.Object.Size))
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && !c.zero {
			err = each(c)
		}
		if err != nil {
			return r.listFailed(name, err)
		}
	}
	if got := list.digest.String(); got != image.Digest {
		return r.listFailed(name, damaged("its digest is %s, and the image's %s", got, image.Digest))
	}
	return nil
}

func (r *Repository) listFailed(name string, err error) error {
	return fault.New("read image", fault.KindOf(r.config.fail("read image", err)), name, err)
}
