package repository

import (
	"context"
	"io"
	"sort"
	"strings"

	"github.com/kopia/kopia/repo/object"

	"github.com/musterdr/muster/providers/fault"
)

// contentTable says of which contents an object is made. Parts of an archive are found by it, and not
// by IDs of their own: only the contents of what a recovery point holds are safe from maintenance, and an
// object of several contents also has an index.
type contentTable struct {
	repo    *Repository
	entries []object.IndirectObjectEntry
	size    int64
}

// contentTable reads kopia's index of an object of a known size. Objects in objects are refused.
func (r *Repository) contentTable(ctx context.Context, id ID) (*contentTable, error) {
	t := &contentTable{repo: r}
	inner, indirect := strings.CutPrefix(string(id), "I")
	if !indirect {
		return nil, fault.Newf("read index of object", fault.Corrupt, string(id), "it has none")
	}
	index, err := r.Open(ctx, ID(inner))
	if err != nil {
		return nil, err
	}
	defer index.Close()
	return t, eachEntry(index, func(e object.IndirectObjectEntry) error {
		if _, _, direct := e.Object.ContentID(); !direct || e.Start != t.size || e.Length < 1 {
			return fault.Newf("read index of object", fault.Corrupt, string(id), "an entry of %d bytes at %d", e.Length, e.Start)
		}
		t.size += e.Length
		t.entries = append(t.entries, e)
		return nil
	})
}

// span returns the contents of a stretch, which must begin and end with one.
func (t *contentTable) span(offset, length int64) ([]object.IndirectObjectEntry, error) {
	from := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].Start >= offset })
	to := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].Start >= offset+length })
	begin := func(i int) int64 {
		if i < len(t.entries) {
			return t.entries[i].Start
		}
		return t.size
	}
	if begin(from) != offset || begin(to) != offset+length {
		return nil, fault.Newf("read object", fault.Corrupt, "", "%d bytes at %d are not a part of it", length, offset)
	}
	return t.entries[from:to], nil
}

// open reads a stretch.
func (t *contentTable) open(ctx context.Context, offset, length int64) (io.Reader, error) {
	entries, err := t.span(offset, length)
	return &contentReader{ctx: ctx, repo: t.repo, entries: entries}, err
}

// check looks that all contents are there.
func (t *contentTable) check(ctx context.Context, name string) error {
	p := t.repo.newPresence(name)
	for _, e := range t.entries {
		if err := p.add(ctx, e.Object); err != nil {
			return err
		}
	}
	return p.check(ctx)
}

// contentReader reads one content after the other.
type contentReader struct {
	ctx     context.Context
	repo    *Repository
	entries []object.IndirectObjectEntry
	left    []byte
}

// Read reads on; damaged content is fault.Corrupt.
func (c *contentReader) Read(p []byte) (int, error) {
	for len(c.left) == 0 {
		if len(c.entries) == 0 {
			return 0, io.EOF
		}
		data, err := c.repo.readObject(c.ctx, c.entries[0].Object, c.entries[0].Length)
		if err != nil {
			return 0, err
		}
		c.left, c.entries = data, c.entries[1:]
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}
