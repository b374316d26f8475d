package repository

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/musterdr/muster/providers/fault"
)

// The index of an archive, files.index, is lines of JSON: docs/formats/repository.md.
const (
	indexVersion = 1
	indexFormat  = "muster-files"
	// indexLineBytes bounds a line: a path has at most 4096 bytes below its root, and any byte of it takes
	// at most six.
	indexLineBytes = 256 << 10
)

// rawName is a name or path as the filesystem has it: text where it is UTF-8, else {"base64": …}.
type rawName string

func fileName(s string) *rawName { n := rawName(s); return &n }

type encodedName struct {
	Base64 string `json:"base64"`
}

// MarshalJSON renders the name.
func (n rawName) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(n)) {
		return json.Marshal(string(n))
	}
	return json.Marshal(encodedName{base64.StdEncoding.EncodeToString([]byte(n))})
}

// UnmarshalJSON is the inverse.
func (n *rawName) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		*n = rawName(text)
		return nil
	}
	var encoded encodedName
	if err := json.Unmarshal(raw, &encoded); err != nil {
		return err
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded.Base64)
	*n = rawName(decoded)
	return err
}

// indexLine is one line: the first one has Format, those of segments Folder or File, those of files
// with several names Link, and the last one End.
type indexLine struct {
	Format        string   `json:"format,omitempty"`
	Version       int      `json:"version,omitempty"`
	Exclude       []string `json:"exclude,omitempty"`
	OneFileSystem bool     `json:"oneFileSystem,omitempty"`

	Folder *rawName `json:"folder,omitempty"` // "." or a path below the root
	File   *rawName `json:"file,omitempty"`   // the path of a large file
	State  string   `json:"state,omitempty"`
	Count  int64    `json:"count,omitempty"` // entries of the segment
	Size   int64    `json:"size,omitempty"`
	SHA256 string   `json:"sha256,omitempty"`
	offset int64    // in the tar; sizes tell it

	Link   *rawName `json:"link,omitempty"` // a name in the folder above
	Target *rawName `json:"target,omitempty"`
	Inode  uint64   `json:"inode,omitempty"`

	End *indexEnd `json:"end,omitempty"`
}

type indexEnd struct {
	Folders int64  `json:"folders"`
	Entries int64  `json:"entries"`
	Digest  string `json:"digest"` // by RuleSegments
}

// indexWriter writes an archive's index.
type indexWriter struct {
	stored  *Writer
	encoder *json.Encoder
	out     *bufio.Writer
	digest  *chunksDigest
}

func (r *Repository) newIndexWriter(ctx context.Context, config ArchiveConfig) (*indexWriter, error) {
	stored, err := r.Create(ctx, "index of "+config.Root)
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(stored, 64<<10)
	w := &indexWriter{stored: stored, out: out, encoder: json.NewEncoder(out), digest: newChunksDigest()}
	w.encoder.SetEscapeHTML(false)
	err = w.encoder.Encode(indexLine{Format: indexFormat, Version: indexVersion, Exclude: config.Exclude, OneFileSystem: config.OneFileSystem})
	if err != nil {
		stored.Abort()
	}
	return w, err
}

func (w *indexWriter) add(line indexLine) error {
	if line.Link == nil {
		var sum [sha256.Size]byte
		if _, err := hex.Decode(sum[:], []byte(line.SHA256)); err != nil {
			return fault.New("write index of archive", fault.Internal, line.SHA256, err)
		}
		w.digest.add(sum)
	}
	return w.encoder.Encode(line)
}

func (w *indexWriter) commit(stats ArchiveStats) (Object, string, error) {
	// The trailer of the tar is a segment without a line.
	w.digest.add(sumOfZeros(2 * tarBlock))
	digest := w.digest.String()
	err := w.encoder.Encode(indexLine{End: &indexEnd{Folders: stats.Folders, Entries: stats.Entries, Digest: digest}})
	if err := errors.Join(err, w.out.Flush()); err != nil {
		return Object{}, "", err
	}
	stored, err := w.stored.Commit()
	return stored, digest, err
}

func (w *indexWriter) abort() { w.stored.Abort() }

// indexReader reads an index that somebody may have tampered with.
type indexReader struct {
	in     *bufio.Reader
	first  indexLine
	folder string // of the last folder's line
	begun  bool
	inside bool  // a link may follow
	at     int64 // in the tar
	digest *chunksDigest
	end    *indexEnd
}

func newIndexReader(in io.Reader) (*indexReader, error) {
	x := &indexReader{in: bufio.NewReaderSize(in, 64<<10), digest: newChunksDigest()}
	first, err := x.line()
	if err != nil {
		return nil, err
	}
	if first.Format != indexFormat {
		return nil, badIndex("it does not begin with the format %q", indexFormat)
	}
	if first.Version != indexVersion {
		return nil, fault.Newf("read index of archive", fault.Unsupported, "", "it is of version %d and this muster reads %d", first.Version, indexVersion)
	}
	x.first = first
	return x, nil
}

func badIndex(format string, args ...any) error {
	return fault.Newf("read index of archive", fault.Corrupt, "", format, args...)
}

func (x *indexReader) line() (indexLine, error) {
	var raw []byte
	for {
		part, err := x.in.ReadSlice('\n')
		if raw = append(raw, part...); len(raw) > indexLineBytes {
			return indexLine{}, badIndex("a line has more than %d bytes", indexLineBytes)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return indexLine{}, badIndex("it ends in the middle")
		}
		if err != nil {
			return indexLine{}, err
		}
		break
	}
	var line indexLine
	if err := json.Unmarshal(raw, &line); err != nil {
		return indexLine{}, badIndex("a line is no JSON: %w", err)
	}
	return line, nil
}

// next returns the next line of a folder, a file or a link, and io.EOF after the last one.
func (x *indexReader) next() (indexLine, error) {
	line, err := x.line()
	if err != nil {
		return line, err
	}
	switch {
	case line.End != nil:
		return line, x.finish(line)
	case line.Link != nil:
		if !x.inside || line.Target == nil || !goodName(string(*line.Link)) || *line.Target != "" && !goodPath(string(*line.Target)) {
			return line, badIndex("a hard link %q", *line.Link)
		}
		return line, nil
	case line.Folder != nil:
		folder := string(*line.Folder)
		if folder != "." && !goodPath(folder) || x.begun && comparePaths(x.folder, folder) >= 0 || x.begun != (folder != ".") {
			return line, badIndex("folder %q after %q", folder, x.folder)
		}
		x.folder, x.begun, x.inside = folder, true, true
	case line.File != nil:
		file := string(*line.File)
		if !x.begun || !goodPath(file) || parent(file) != x.folder {
			return line, badIndex("file %q in folder %q", file, x.folder)
		}
		x.inside = false
	default:
		return line, badIndex("a line that is neither of a folder, nor of a file or a link")
	}
	line.offset = x.at
	return line, x.segment(line)
}

func (x *indexReader) segment(line indexLine) error {
	var sum [sha256.Size]byte
	if n, err := hex.Decode(sum[:], []byte(line.SHA256[:min(len(line.SHA256), 64)])); err != nil || n != sha256.Size || len(line.SHA256) != 64 || strings.ToLower(line.SHA256) != line.SHA256 {
		return badIndex("digest %.80q", line.SHA256)
	}
	if line.Size < tarBlock || line.Size > 1<<60-x.at || line.Size%tarBlock != 0 || line.Count < 1 {
		return badIndex("a segment of %d bytes with %d entries", line.Size, line.Count)
	}
	x.at += line.Size
	x.digest.add(sum)
	return nil
}

func (x *indexReader) finish(line indexLine) error {
	x.digest.add(sumOfZeros(2 * tarBlock))
	if got := x.digest.String(); !x.begun || got != line.End.Digest {
		return badIndex("its digest is %s, and its last line says %.80q", got, line.End.Digest)
	}
	if _, err := x.in.ReadByte(); !errors.Is(err, io.EOF) {
		return badIndex("something follows its last line")
	}
	x.end = line.End
	return io.EOF
}

// goodName is a name that a folder can hold.
func goodName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00")
}

// goodPath is a path that stays below its root.
func goodPath(path string) bool {
	for _, name := range strings.Split(path, "/") {
		if !goodName(name) {
			return false
		}
	}
	return true
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return "."
}

// comparePaths orders folders as a walk meets them: each before what is in it.
func comparePaths(a, b string) int {
	if a == b {
		return 0
	}
	if a == "." {
		return -1
	}
	if b == "." {
		return 1
	}
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}
