package repository

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/musterdr/muster/providers/fault"
)

// indexFolder is a folder of a base with its links and large files.
type indexFolder struct {
	line  indexLine
	links []indexLine
	files []indexLine
}

// indexCursor goes through a base's folders in the order of a walk. A nil one is a base without any.
type indexCursor struct {
	repo *Repository
	tar  *contentTable
	file *Reader
	in   *indexReader
	read *indexLine   // the next folder's line
	next *indexFolder // nil after the last one
}

// openBaseIndex checks a base's index and opens it. It is nil without a base, and for one of other
// settings.
func (r *Repository) openBaseIndex(ctx context.Context, config ArchiveConfig) (*indexCursor, error) {
	if config.Base == nil {
		return nil, nil
	}
	table, err := r.checkIndex(ctx, *config.Base)
	if err != nil {
		return nil, err
	}
	if err := table.check(ctx, config.Root); err != nil {
		return nil, err
	}
	file, in, err := r.openIndex(ctx, *config.Base)
	if err != nil {
		return nil, err
	}
	c := &indexCursor{repo: r, tar: table, file: file, in: in}
	if !slices.Equal(in.first.Exclude, config.Exclude) || in.first.OneFileSystem != config.OneFileSystem {
		c.close()
		return nil, nil
	}
	line, err := in.next()
	if err != nil {
		c.close()
		return nil, r.indexFailed(err)
	}
	c.read = &line
	return c, c.advance()
}

func (r *Repository) openIndex(ctx context.Context, archive Archive) (*Reader, *indexReader, error) {
	file, err := r.Open(ctx, archive.Index.ID)
	if err != nil {
		return nil, nil, err
	}
	in, err := newIndexReader(file)
	if err != nil {
		file.Close()
		return nil, nil, r.indexFailed(err)
	}
	return file, in, nil
}

func (r *Repository) indexFailed(err error) error {
	return fault.New("read archive", fault.KindOf(r.config.fail("read", err)), "", err)
}

// checkIndex reads an index through, and compares it with the archive.
func (r *Repository) checkIndex(ctx context.Context, archive Archive) (*contentTable, error) {
	table, err := r.contentTable(ctx, archive.Object.ID)
	if err != nil {
		return nil, fault.New("read archive", fault.KindOf(err), "", err)
	}
	file, in, err := r.openIndex(ctx, archive)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for {
		_, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, r.indexFailed(err)
		}
	}
	if in.end.Digest != archive.Digest || in.at+2*tarBlock != table.size {
		return nil, badIndex("it is of %d bytes with digest %s, and the archive has %d with %s", in.at, in.end.Digest, table.size, archive.Digest)
	}
	return table, nil
}

func (c *indexCursor) advance() error {
	if c.read == nil {
		c.next = nil
		return nil
	}
	next := &indexFolder{line: *c.read}
	c.read = nil
	for {
		line, err := c.in.next()
		switch {
		case errors.Is(err, io.EOF):
			c.next = next
			return nil
		case err != nil:
			return c.repo.indexFailed(err)
		case line.Link != nil:
			next.links = append(next.links, line)
		case line.File != nil:
			next.files = append(next.files, line)
		default:
			c.read, c.next = &line, next
			return nil
		}
	}
}

// find returns a folder of the base, nil when the base lacks it. Folders are asked for in order.
func (c *indexCursor) find(folder string) (*indexFolder, error) {
	if c == nil {
		return nil, nil
	}
	for c.next != nil && comparePaths(string(*c.next.line.Folder), folder) < 0 {
		if err := c.advance(); err != nil {
			return nil, err
		}
	}
	if c.next == nil || string(*c.next.line.Folder) != folder {
		return nil, nil
	}
	found := c.next
	return found, c.advance()
}

// peek is the next folder, "" after the last one.
func (c *indexCursor) peek() string {
	if c == nil || c.next == nil {
		return ""
	}
	return string(*c.next.line.Folder)
}

func (c *indexCursor) table() *contentTable {
	if c == nil {
		return nil
	}
	return c.tar
}

func (c *indexCursor) close() {
	if c != nil {
		c.file.Close()
	}
}
