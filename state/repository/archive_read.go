package repository

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

// archiveEntry is an entry of a segment that is being read. Its name was checked: it lies in the
// segment's folder, and is "." for the folder itself.
type archiveEntry struct {
	*tar.Header
	name    string
	path    string
	content io.Reader
}

func (e archiveEntry) xattrs() map[string]string {
	out := map[string]string{}
	for record, value := range e.PAXRecords {
		if name, ok := decodeXattr(record); ok {
			out[name] = value
		}
	}
	return out
}

func (e archiveEntry) isSparse() bool { return e.PAXRecords["GNU.sparse.realsize"] != "" }

// eachSegment calls each for all segments of an archive, several at once, with the folder that each
// belongs to.
func (r *Repository) eachSegment(ctx context.Context, archive Archive, each func(ctx context.Context, folder string, line indexLine) error) error {
	file, in, err := r.openIndex(ctx, archive)
	if err != nil {
		return err
	}
	defer file.Close()
	working, within := errgroup.WithContext(ctx)
	working.SetLimit(archiveParallel())
	for within.Err() == nil {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(r.indexFailed(err), working.Wait())
		}
		if line.Link != nil {
			continue
		}
		folder := in.folder
		working.Go(func() error { return each(within, folder, line) })
	}
	if err := working.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // some segments were not begun
		return fault.New("read archive", fault.Transient, "", err)
	}
	return nil
}

// readSegment reads a segment's entries and compares its digest.
func (t *contentTable) readSegment(ctx context.Context, folder string, line indexLine, each func(archiveEntry) error) error {
	subject := folder
	if line.File != nil {
		subject = string(*line.File)
	}
	opened, err := t.open(ctx, line.offset, line.Size)
	if err != nil {
		return fault.New("read archive", fault.KindOf(err), subject, err)
	}
	sum := sha256.New()
	source := io.TeeReader(opened, sum)
	in := tar.NewReader(source)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fault.New("read archive", kindOfContent(err), subject, err)
		}
		e, err := checkEntry(folder, line, header)
		if err != nil {
			return err
		}
		e.content = in
		if err := each(e); err != nil {
			return fault.New("read archive", fault.KindOf(err), e.path, err)
		}
	}
	if _, err := io.Copy(io.Discard, source); err != nil {
		return fault.New("read archive", fault.KindOf(err), subject, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != line.SHA256 {
		return fault.Newf("read archive", fault.Corrupt, subject, "the segment of %d bytes does not have its digest", line.Size)
	}
	return nil
}

func kindOfContent(err error) fault.Kind {
	var known *fault.Error
	if errors.As(err, &known) {
		return known.Kind
	}
	return fault.Corrupt // archive/tar could not read it
}

// checkEntry refuses an entry that does not lie in its folder.
func checkEntry(folder string, line indexLine, header *tar.Header) (archiveEntry, error) {
	path := strings.TrimSuffix(header.Name, "/")
	e := archiveEntry{Header: header, path: path, name: path[strings.LastIndexByte(path, '/')+1:]}
	isFolder := header.Typeflag == tar.TypeDir
	switch {
	case isFolder && line.File == nil && path == folder:
		e.name = "."
		return e, nil
	case isFolder, !goodPath(path), parent(path) != folder, line.File != nil && path != string(*line.File):
		return e, fault.Newf("read archive", fault.Corrupt, folder, "an entry leads out of it: %q", header.Name)
	case header.Typeflag == tar.TypeLink && !goodPath(header.Linkname):
		return e, fault.Newf("read archive", fault.Corrupt, path, "a hard link leads out of the archive: %q", header.Linkname)
	case header.Size < 0:
		return e, fault.Newf("read archive", fault.Corrupt, path, "it has %d bytes", header.Size)
	}
	return e, nil
}
