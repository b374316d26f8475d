package repository

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"

	"github.com/musterdr/muster/providers/fault"
)

// Reader reads an object.
type Reader struct {
	object.Reader
	config Config
	mu     sync.Mutex
}

// Read reads on; damaged content is fault.Corrupt.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.config.fail("read repository", err)
	}
	return n, err
}

// Size is the object's length in bytes.
func (r *Reader) Size() int64 { return r.Length() }

// ReadAt reads at an offset. It moves the position of Read.
func (r *Reader) ReadAt(p []byte, offset int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset >= r.Length() {
		return 0, io.EOF
	}
	if _, err := r.Seek(offset, io.SeekStart); err != nil {
		return 0, r.config.fail("read repository", err)
	}
	n, err := io.ReadFull(r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// Open opens an object. Content that is damaged or gone is fault.Corrupt.
func (r *Repository) Open(ctx context.Context, id ID) (*Reader, error) {
	parsed, err := object.ParseID(string(id))
	if err != nil {
		return nil, fault.New("open object", fault.Corrupt, string(id), err)
	}
	from, err := r.reading(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := from.OpenObject(ctx, parsed)
	if err != nil {
		return nil, r.config.fail("open object "+string(id), err)
	}
	return &Reader{Reader: opened, config: r.config}, nil
}

// reading is where objects are read from: the write session, once there is one, sees what it wrote.
func (r *Repository) reading(context.Context) (repo.Repository, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer != nil {
		return r.writer, nil
	}
	return r.repo, nil
}

// contents is reading, content by content.
func (r *Repository) contents() content.Reader {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer != nil {
		return r.writer.ContentReader()
	}
	return r.repo.ContentReader()
}
