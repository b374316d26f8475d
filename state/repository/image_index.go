package repository

import (
	"bufio"
	"bytes"
	"context"
	"strconv"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
)

// objectIndex writes kopia's index of an object that is made of others, as kopia's own concatenation
// writes it. That one reads every part to learn its length; here lengths are known, and the index is
// written while the object is.
type objectIndex struct {
	ctx     context.Context
	repo    *Repository
	name    string
	object  object.Writer
	out     *bufio.Writer
	entries int64
	only    string // the first entry's object
	size    int64  // of the object so far
}

func newObjectIndex(ctx context.Context, session repo.DirectRepositoryWriter, r *Repository, name string) *objectIndex {
	// "x" is kopia's prefix for indexes.
	opened := session.NewObjectWriter(ctx, object.WriterOptions{
		Description: "index of " + name, Prefix: "x", Compressor: compressor, MetadataCompressor: compressor,
	})
	out := bufio.NewWriterSize(opened, 64<<10)
	_, _ = out.WriteString(`{"stream":"kopia:indirect","entries":[`) // the writer keeps its error
	return &objectIndex{ctx: ctx, repo: r, name: name, object: opened, out: out}
}

// imageIndex is the index of an image.
type imageIndex struct {
	*objectIndex
	bytes int64 // the image's size
	zeros *zeroObjects
}

// add appends chunks that are alike. Runs of zeros become few, large entries, always cut at the same
// places, so that the indexes of two images have as much in common as can be.
func (x *imageIndex) add(first, count int64, c chunk) error {
	for count > 0 {
		n := int64(1)
		if c.zero && first%zeroRun == 0 && count >= zeroRun && (first+zeroRun)*ChunkBytes <= x.size {
			n = zeroRun
		}
		length := min((first+n)*ChunkBytes, x.bytes) - first*ChunkBytes
		id := ""
		var err error
		if !c.zero {
			id = c.id.String()
		} else if id, err = x.zeros.id(x.ctx, x.name, length); err != nil {
			return err
		}
		if err := x.entry(length, id); err != nil {
			return err
		}
		first, count = first+n, count-n
	}
	return nil
}

// entry appends an object of a known length. It should be a single content: whoever reads the whole
// takes an entry into memory at once.
func (x *objectIndex) entry(length int64, id string) error {
	line := make([]byte, 0, 96)
	if x.entries == 0 {
		x.only = id
	} else {
		line = append(line, ',')
	}
	x.entries++
	line = append(line, '{')
	if x.size > 0 {
		line = append(line, `"s":`...)
		line = strconv.AppendInt(line, x.size, 10)
		line = append(line, ',')
	}
	line = append(line, `"l":`...)
	line = strconv.AppendInt(line, length, 10)
	line = append(line, `,"o":"`...)
	line = append(line, id...)
	line = append(line, `"}`...)
	x.size += length
	_, err := x.out.Write(line)
	return x.repo.config.fail("store "+x.name, err)
}

// commit names the whole: an index of one entry is the entry's object, and of none an empty object.
func (x *objectIndex) commit() (ID, error) {
	switch x.entries {
	case 0:
		empty, err := x.repo.Put(x.ctx, x.name, bytes.NewReader(nil))
		return empty.ID, err
	case 1:
		return ID(x.only), nil
	}
	_, _ = x.out.WriteString("]}\n") // Flush gives its error
	if err := x.out.Flush(); err != nil {
		return "", x.repo.config.fail("store "+x.name, err)
	}
	id, err := x.object.Result()
	if err != nil {
		return "", x.repo.config.fail("store "+x.name, err)
	}
	return ID("I" + id.String()), nil
}

func (x *objectIndex) abort() { _ = x.object.Close() } // it only frees memory
