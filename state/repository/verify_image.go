package repository

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/kopia/kopia/repo/object"

	"github.com/musterdr/muster/providers/fault"
)

// imageDigest reads an image as the stock kopia command would, by kopia's own index and not by the list
// of its chunks, and computes its digest by RuleChunks. An object of zeros is read once.
func (r *Repository) imageDigest(ctx context.Context, id ID) (int64, string, error) {
	inner, indirect := strings.CutPrefix(string(id), "I")
	if !indirect {
		return r.streamDigest(ctx, id)
	}
	index, err := r.Open(ctx, ID(inner))
	if err != nil {
		return 0, "", err
	}
	defer index.Close()
	ctx, cancel := context.WithCancel(ctx)
	d := &digesting{repo: r, digest: newChunksDigest(), zeros: map[object.ID]int64{}}
	defer d.wait() // after cancel
	defer cancel()
	if err := eachEntry(index, func(e object.IndirectObjectEntry) error { return d.add(ctx, e) }); err != nil {
		return 0, "", err
	}
	if err := d.drain(); err != nil {
		return 0, "", err
	}
	return d.size, d.digest.String(), nil
}

// streamDigest computes the digest of an object that is a single content.
func (r *Repository) streamDigest(ctx context.Context, id ID) (int64, string, error) {
	opened, err := r.Open(ctx, id)
	if err != nil {
		return 0, "", err
	}
	defer opened.Close()
	digest := newChunksDigest()
	buffer := make([]byte, ChunkBytes)
	for size := int64(0); ; {
		n, err := io.ReadFull(opened, buffer)
		if n > 0 {
			digest.add(sha256.Sum256(buffer[:n]))
			size += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return size, digest.String(), nil
		}
		if err != nil {
			return 0, "", err
		}
	}
}

// eachEntry reads kopia's index of an object, entry by entry.
func eachEntry(index io.Reader, each func(object.IndirectObjectEntry) error) error {
	decoder := json.NewDecoder(index)
	for _, want := range []json.Token{json.Delim('{'), "stream", "kopia:indirect", "entries", json.Delim('[')} {
		if got, err := decoder.Token(); err != nil || got != want {
			return fault.Newf("read image", fault.Corrupt, "", "its index is damaged: %v where %v was expected: %w", got, want, err)
		}
	}
	for decoder.More() {
		var e object.IndirectObjectEntry
		if err := decoder.Decode(&e); err != nil {
			return fault.New("read image", fault.Corrupt, "", err)
		}
		if err := each(e); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return fault.New("read image", fault.Corrupt, "", err)
	}
	return nil
}

// digesting computes an image's digest from entries that are read in parallel.
type digesting struct {
	repo   *Repository
	digest *chunksDigest
	zeros  map[object.ID]int64 // objects that were read and are zeros, and their lengths
	ahead  []*entrySums
	size   int64
}

type entrySums struct {
	entry object.IndirectObjectEntry
	sums  [][sha256.Size]byte
	zero  bool
	err   error
	done  chan struct{} // nil when it is known to be zeros
}

// add begins to read an entry, and settles those that are too many.
func (d *digesting) add(ctx context.Context, e object.IndirectObjectEntry) error {
	if _, _, direct := e.Object.ContentID(); !direct || e.Start%ChunkBytes != 0 || e.Length < 1 || e.Length > zeroRun*ChunkBytes {
		return fault.Newf("read image", fault.Corrupt, e.Object.String(), "%d bytes at %d are no chunk of an image", e.Length, e.Start)
	}
	next := &entrySums{entry: e}
	if e.Length > ChunkBytes && d.zeros[e.Object] != e.Length {
		// A run of zeros that is not known yet: few and large, so one at a time.
		if err := d.drain(); err != nil {
			return err
		}
	}
	d.ahead = append(d.ahead, next)
	if d.zeros[e.Object] == e.Length {
		return d.limit()
	}
	next.done = make(chan struct{})
	go func() {
		defer close(next.done)
		next.read(ctx, d.repo)
	}()
	if e.Length > ChunkBytes {
		return d.drain()
	}
	return d.limit()
}

func (d *digesting) limit() error {
	if len(d.ahead) < imageParallel() {
		return nil
	}
	return d.settle()
}

func (d *digesting) drain() error {
	for len(d.ahead) > 0 {
		if err := d.settle(); err != nil {
			return err
		}
	}
	return nil
}

func (e *entrySums) read(ctx context.Context, r *Repository) {
	data, err := r.readObject(ctx, e.entry.Object, e.entry.Length)
	if err != nil {
		e.err = fault.Newf("read image", fault.KindOf(err), e.entry.Object.String(), "chunk %d, at %d: %w", e.entry.Start/ChunkBytes, e.entry.Start, err)
		return
	}
	if e.zero = isZero(data); e.zero {
		return
	}
	for len(data) > 0 {
		n := min(len(data), ChunkBytes)
		e.sums = append(e.sums, sha256.Sum256(data[:n]))
		data = data[n:]
	}
}

func (d *digesting) settle() error {
	e := d.ahead[0]
	if e.done != nil {
		<-e.done
	}
	d.ahead = d.ahead[1:]
	if e.err != nil {
		return e.err
	}
	if e.entry.Start != d.size {
		return fault.Newf("read image", fault.Corrupt, e.entry.Object.String(), "a chunk at %d where one at %d was expected", e.entry.Start, d.size)
	}
	d.size += e.entry.Length
	if e.done == nil || e.zero {
		if e.zero && len(d.zeros) < 8 { // an image has three kinds of them
			d.zeros[e.entry.Object] = e.entry.Length
		}
		d.digest.addZeros(d.size, e.entry.Start/ChunkBytes, chunkCount(e.entry.Length))
		return nil
	}
	for _, sum := range e.sums {
		d.digest.add(sum)
	}
	return nil
}

func (d *digesting) wait() {
	for _, e := range d.ahead {
		if e.done != nil {
			<-e.done
		}
	}
}
