package repository

import (
	"bufio"
	"bytes"
	"context"
	"strconv"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"
)

// imageIndex writes kopia's index of an object that is made of others, as kopia's own concatenation
// writes it. That one reads every part to learn its length; here lengths are known, and the index is
// written while the image is.
type imageIndex struct {
	ctx     context.Context
	config  Config
	name    string
	size    int64
	zeros   *zeroObjects
	object  object.Writer
	out     *bufio.Writer
	entries int64
	only    string // the first entry's object
}

func newImageIndex(ctx context.Context, session repo.DirectRepositoryWriter, name string, size int64, zeros *zeroObjects) *imageIndex {
	// "x" is kopia's prefix for indexes.
	opened := session.NewObjectWriter(ctx, object.WriterOptions{
		Description: "index of " + name, Prefix: "x", Compressor: compressor, MetadataCompressor: compressor,
	})
	out := bufio.NewWriterSize(opened, 64<<10)
	_, _ = out.WriteString(`{"stream":"kopia:indirect","entries":[`) // the writer keeps its error
	return &imageIndex{ctx: ctx, config: zeros.repo.config, name: name, size: size, zeros: zeros, object: opened, out: out}
}

// add appends chunks that are alike. Runs of zeros become few, large entries, always cut at the same
// places, so that the indexes of two images have as much in common as can be.
func (x *imageIndex) add(first, count int64, c chunk) error {
	for count > 0 {
		n := int64(1)
		if c.zero && first%zeroRun == 0 && count >= zeroRun && (first+zeroRun)*ChunkBytes <= x.size {
			n = zeroRun
		}
		length := min((first+n)*ChunkBytes, x.size) - first*ChunkBytes
		id := ""
		var err error
		if !c.zero {
			id = c.id.String()
		} else if id, err = x.zeros.id(x.ctx, x.name, length); err != nil {
			return err
		}
		if err := x.entry(first*ChunkBytes, length, id); err != nil {
			return err
		}
		first, count = first+n, count-n
	}
	return nil
}

func (x *imageIndex) entry(start, length int64, id string) error {
	line := make([]byte, 0, 96)
	if x.entries == 0 {
		x.only = id
	} else {
		line = append(line, ',')
	}
	x.entries++
	line = append(line, '{')
	if start > 0 {
		line = append(line, `"s":`...)
		line = strconv.AppendInt(line, start, 10)
		line = append(line, ',')
	}
	line = append(line, `"l":`...)
	line = strconv.AppendInt(line, length, 10)
	line = append(line, `,"o":"`...)
	line = append(line, id...)
	line = append(line, `"}`...)
	_, err := x.out.Write(line)
	return x.config.fail("store image "+x.name, err)
}

// commit names the image: an index of one entry is the entry's object, and of none an empty object.
func (x *imageIndex) commit() (ID, error) {
	switch x.entries {
	case 0:
		empty, err := x.zeros.repo.Put(x.ctx, x.name, bytes.NewReader(nil))
		return empty.ID, err
	case 1:
		return ID(x.only), nil
	}
	_, _ = x.out.WriteString("]}\n") // Flush gives its error
	if err := x.out.Flush(); err != nil {
		return "", x.config.fail("store image "+x.name, err)
	}
	id, err := x.object.Result()
	if err != nil {
		return "", x.config.fail("store image "+x.name, err)
	}
	return ID("I" + id.String()), nil
}

func (x *imageIndex) abort() { _ = x.object.Close() } // it only frees memory
