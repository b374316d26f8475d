package repository

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/kopia/kopia/repo/object"

	"github.com/musterdr/muster/providers/fault"
)

// The list of an image's chunks, image.chunks, is lines of text: docs/formats/repository.md.
const (
	listVersion = 1
	listMagic   = "muster-chunks"
	listZero    = "zero"
	listLine    = 256 // bytes; the longest line a writer makes has 132
)

// RuleSegments is the digest of an archive: SHA-256 over one line for each of its segments, in order, with
// the segment's own SHA-256 in lower-case hexadecimal and a newline.
const RuleSegments = "sha256-segments"

// RuleChunks is the digest of an image: SHA-256 over one line for each chunk of a mebibyte, in order,
// with the chunk's own SHA-256 in lower-case hexadecimal and a newline.
const RuleChunks = "sha256-chunks-1m"

// chunksDigest computes a digest by RuleChunks.
type chunksDigest struct {
	sum  hash.Hash
	line [2*sha256.Size + 1]byte
}

func newChunksDigest() *chunksDigest { return &chunksDigest{sum: sha256.New()} }

func (d *chunksDigest) add(sum [sha256.Size]byte) {
	hex.Encode(d.line[:], sum[:])
	d.line[len(d.line)-1] = '\n'
	d.sum.Write(d.line[:])
}

// addZeros adds chunks of zeros of an image of the given size.
func (d *chunksDigest) addZeros(size, first, count int64) {
	for i := first; i < first+count; i++ {
		if length := chunkLength(size, i); length < ChunkBytes {
			d.add(sumOfZeros(length))
		} else {
			d.add(zeroSum())
		}
	}
}

func (d *chunksDigest) String() string { return hex.EncodeToString(d.sum.Sum(nil)) }

// listWriter writes a list of chunks.
type listWriter struct {
	stored *Writer
	out    *bufio.Writer
	size   int64
	zeros  int64 // of the run that is not written yet
	digest *chunksDigest
}

func (r *Repository) newListWriter(ctx context.Context, name string, size int64) (*listWriter, error) {
	stored, err := r.Create(ctx, "chunks of "+name)
	if err != nil {
		return nil, err
	}
	l := &listWriter{stored: stored, out: bufio.NewWriterSize(stored, 64<<10), size: size, digest: newChunksDigest()}
	_, err = fmt.Fprintf(l.out, "%s %d %d %d\n", listMagic, listVersion, size, ChunkBytes)
	return l, err
}

// add appends chunks that are alike.
func (l *listWriter) add(first, count int64, c chunk) error {
	if c.zero {
		l.zeros += count
		l.digest.addZeros(l.size, first, count)
		return nil
	}
	if err := l.endRun(); err != nil {
		return err
	}
	l.digest.add(c.sum)
	line := make([]byte, 0, listLine)
	line = hex.AppendEncode(line, c.sum[:])
	line = append(line, ' ')
	line = append(line, c.id.String()...)
	_, err := l.out.Write(append(line, '\n'))
	return err
}

func (l *listWriter) endRun() error {
	if l.zeros == 0 {
		return nil
	}
	_, err := fmt.Fprintf(l.out, "%s %d\n", listZero, l.zeros)
	l.zeros = 0
	return err
}

// commit stores the list and returns it with the image's digest.
func (l *listWriter) commit() (Object, string, error) {
	if err := errors.Join(l.endRun(), l.out.Flush()); err != nil {
		return Object{}, "", err
	}
	stored, err := l.stored.Commit()
	return stored, l.digest.String(), err
}

func (l *listWriter) abort() { l.stored.Abort() }

// listReader reads a list of chunks that somebody may have tampered with.
type listReader struct {
	in     *bufio.Reader
	size   int64
	at     int64 // the next chunk
	zeros  int64 // left of a run
	digest *chunksDigest
}

func newListReader(in io.Reader) (*listReader, error) {
	l := &listReader{in: bufio.NewReaderSize(in, 64<<10), digest: newChunksDigest()}
	line, err := l.line()
	if errors.Is(err, io.EOF) {
		return nil, damaged("it is empty")
	}
	if err != nil {
		return nil, err
	}
	fields := strings.Split(line, " ")
	if len(fields) != 4 || fields[0] != listMagic {
		return nil, damaged("it does not begin with %q", listMagic)
	}
	if fields[1] != strconv.Itoa(listVersion) {
		return nil, fault.Newf("read list of chunks", fault.Unsupported, "", "it is of version %.20q and this muster reads %d", fields[1], listVersion)
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 || size > 1<<62 || fields[3] != strconv.Itoa(ChunkBytes) {
		return nil, damaged("its first line is %q", line)
	}
	l.size = size
	return l, nil
}

func damaged(format string, args ...any) error {
	return fault.Newf("read list of chunks", fault.Corrupt, "", format, args...)
}

// line reads one line; io.EOF after the last one.
func (l *listReader) line() (string, error) {
	raw, err := l.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull), len(raw) > listLine:
		return "", damaged("line of more than %d bytes", listLine)
	case errors.Is(err, io.EOF) && len(raw) > 0:
		return "", damaged("its last line has no end")
	case err != nil:
		return "", err
	}
	return string(raw[:len(raw)-1]), nil
}

// next returns the next chunk and how many like it there are, at most so many. After the last chunk it
// is io.EOF, and the digest is complete.
func (l *listReader) next(most int64) (chunk, int64, error) {
	if l.zeros == 0 {
		c, err := l.parse()
		if err != nil || !c.zero {
			return c, 1, err
		}
	}
	n := min(l.zeros, most)
	l.digest.addZeros(l.size, l.at, n)
	l.zeros -= n
	l.at += n
	return chunk{zero: true}, n, nil
}

// parse reads the next line: a chunk, or a run of zeros, which it leaves in zeros.
func (l *listReader) parse() (chunk, error) {
	line, err := l.line()
	left := chunkCount(l.size) - l.at
	if errors.Is(err, io.EOF) && left > 0 {
		return chunk{}, damaged("%d chunks are missing at its end", left)
	}
	if err != nil {
		return chunk{}, err
	}
	first, second, _ := strings.Cut(line, " ")
	if first == listZero {
		n, err := strconv.ParseInt(second, 10, 64)
		if err != nil || n < 1 || n > left || strconv.FormatInt(n, 10) != second {
			return chunk{}, damaged("chunk %d: a run of %.40q chunks of zeros, where %d chunks are left", l.at, second, left)
		}
		l.zeros = n
		return chunk{zero: true}, nil
	}
	c := chunk{}
	if n, err := hex.Decode(c.sum[:], []byte(first[:min(len(first), 2*sha256.Size)])); err != nil || n != sha256.Size ||
		len(first) != 2*sha256.Size || strings.ToLower(first) != first || left < 1 {
		return chunk{}, damaged("chunk %d: line %q", l.at, line)
	}
	c.id, err = object.ParseID(second)
	if _, _, direct := c.id.ContentID(); err != nil || !direct || c.id.String() != second {
		return chunk{}, damaged("chunk %d: object ID %q", l.at, second)
	}
	l.digest.add(c.sum)
	l.at++
	return c, nil
}
