package repository

import (
	"context"

	"github.com/musterdr/muster/providers/fault"
)

// baseCursor goes through a base's chunks in ascending order. A nil one is a base without data.
type baseCursor struct {
	repo *Repository
	name string
	file *Reader
	list *listReader
	size int64
}

// openBase checks a base and opens it.
func (r *Repository) openBase(ctx context.Context, name string, base *Image) (*baseCursor, error) {
	if base == nil {
		return nil, nil
	}
	if err := r.checkBase(ctx, name, *base); err != nil {
		return nil, err
	}
	file, list, err := r.openList(ctx, name, *base)
	if err != nil {
		return nil, err
	}
	return &baseCursor{repo: r, name: name, file: file, list: list, size: base.Object.Size}, nil
}

// checkBase looks that all content of a base is there.
func (r *Repository) checkBase(ctx context.Context, name string, base Image) error {
	p := r.newPresence(name)
	if err := r.checkList(ctx, name, base, func(c chunk) error { return p.add(ctx, c.id) }); err != nil {
		return err
	}
	return p.check(ctx)
}

// run returns the base's chunk at an index and how many like it follow, at most so many. Indexes ascend.
func (b *baseCursor) run(index, most int64) (chunk, int64, error) {
	if b == nil {
		return chunk{zero: true}, most, nil
	}
	for b.list.at < min(index, chunkCount(b.size)) {
		if _, _, err := b.list.next(index - b.list.at); err != nil {
			return chunk{}, 0, b.failed(err)
		}
	}
	if index >= chunkCount(b.size) {
		return chunk{zero: true}, most, nil
	}
	c, n, err := b.list.next(most)
	return c, n, b.failed(err)
}

// length is that of the base's chunk at an index.
func (b *baseCursor) length(index int64) int64 {
	if b == nil {
		return 0
	}
	return chunkLength(b.size, index)
}

func (b *baseCursor) failed(err error) error {
	if err == nil {
		return nil
	}
	return fault.New("read base image", fault.KindOf(b.repo.config.fail("read base image", err)), b.name, err)
}

func (b *baseCursor) close() {
	if b != nil {
		b.file.Close()
	}
}
