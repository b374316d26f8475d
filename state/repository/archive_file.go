package repository

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readXattrs reads the extended attributes of what a path names, ACLs among them. The path's last part
// is not followed.
func readXattrs(at string) (map[string]string, error) {
	names, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(at, b) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) || len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, name := range strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if ofBackend(name) {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(at, name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[name] = string(value)
	}
	return out, nil
}

// ofBackend says that an extended attribute is a backend's own affair: it would be wrong, or refused,
// anywhere else.
func ofBackend(name string) bool {
	for _, prefix := range []string{"trusted.glusterfs.", "trusted.afr.", "trusted.gfid", "trusted.ec.", "trusted.dht", "trusted.overlay.", "glusterfs.", "ceph."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// grow calls read with buffers that grow until the answer fits.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := read(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buffer := make([]byte, n+64)
		n, err = read(buffer)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		return buffer[:max(n, 0)], err
	}
}

// hole is a stretch of a file that holds data; the rest of a sparse file are holes.
type hole struct{ from, to int64 }

const leastHole = 64 << 10 // holes below this are stored

// extents are the stretches of a file that hold data, or nil when it is not sparse.
func extents(f *os.File, stat unix.Stat_t) []hole {
	if stat.Size < leastHole || stat.Blocks*512 >= stat.Size {
		return nil
	}
	out := []hole{}
	for at := int64(0); at < stat.Size; {
		from, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil // the filesystem does not know holes
		}
		to, err := f.Seek(from, unix.SEEK_HOLE)
		if err != nil {
			return nil
		}
		to = min(to, stat.Size)
		if from >= to {
			break
		}
		if last := len(out) - 1; last >= 0 && from-out[last].to < leastHole {
			out[last].to = to
		} else {
			out = append(out, hole{from, to})
		}
		at = to
	}
	if len(out) == 1 && out[0].from == 0 && out[0].to == stat.Size {
		return nil
	}
	return out
}

// sparseMap renders extents as GNU tar's format 1.0 has them: numbers in lines, padded to a block.
func sparseMap(data []hole, size int64) []byte {
	end := int64(0)
	if len(data) > 0 {
		end = data[len(data)-1].to
	}
	if end < size {
		data = append(data[:len(data):len(data)], hole{size, size})
	}
	out := strconv.AppendInt(nil, int64(len(data)), 10)
	out = append(out, '\n')
	for _, d := range data {
		out = append(strconv.AppendInt(out, d.from, 10), '\n')
		out = append(strconv.AppendInt(out, d.to-d.from, 10), '\n')
	}
	return append(out, make([]byte, padding(int64(len(out))))...)
}

// small reads an entry of a folder's segment. Nil: it has vanished.
func (a *archiver) small(p *place, e fileEntry) ([]byte, error) {
	if !e.isContent() {
		h, err := a.header(p, e, e.name)
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		if err != nil {
			return nil, unreadable(below(p.path, e.name), err)
		}
		return h.encode(), nil
	}
	for attempt := 0; ; attempt++ {
		encoded, changed, err := a.smallOnce(p, e)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
			return nil, nil
		}
		if err != nil {
			return nil, unreadable(below(p.path, e.name), err)
		}
		if !changed {
			return encoded, nil
		}
		if attempt > 0 {
			a.left(below(p.path, e.name), changedWhileRead)
			return encoded, nil
		}
	}
}

const changedWhileRead = "changed while read"

func (a *archiver) smallOnce(p *place, e fileEntry) (encoded []byte, changed bool, _ error) {
	f, h, err := a.openFile(p, &e)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if e.stat.Size > largeFile { // it has grown since it was looked at
		e.stat.Size = largeFile
		changed = true
	}
	content := &buffer{}
	if err := writeFile(content, f, h, e.stat); err != nil {
		return nil, false, err
	}
	moved, err := hasChanged(f, e.stat)
	return content.bytes, moved || changed, err
}

// openFile opens a file, brings its entry up to date, and makes its header.
func (a *archiver) openFile(p *place, e *fileEntry) (*os.File, tarHeader, error) {
	fd, err := openat(p.fd, e.name, 0)
	if err != nil {
		return nil, tarHeader{}, err
	}
	f := os.NewFile(uintptr(fd), e.name)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		f.Close()
		return nil, tarHeader{}, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG { // something else stands in its place now
		f.Close()
		return nil, tarHeader{}, unix.ENOENT
	}
	e.stat = stat
	h, err := a.header(p, *e, e.name)
	if err != nil {
		f.Close()
		return nil, tarHeader{}, err
	}
	return f, h, nil
}

func hasChanged(f *os.File, before unix.Stat_t) (bool, error) {
	var after unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &after)
	return after.Size != before.Size || after.Mtim != before.Mtim || after.Ctim != before.Ctim, err
}

// buffer is a Writer into memory.
type buffer struct{ bytes []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.bytes = append(b.bytes, p...)
	return len(p), nil
}

// writeFile writes header and content, exactly as long as the header says: what a file lacks
// meanwhile are zeros.
func writeFile(w io.Writer, f *os.File, h tarHeader, stat unix.Stat_t) error {
	data := extents(f, stat)
	sparse := []byte(nil)
	if data == nil {
		data = []hole{{0, stat.Size}}
	} else {
		sparse = sparseMap(data, stat.Size)
		h.sparse = stat.Size
	}
	h.size = int64(len(sparse))
	for _, d := range data {
		h.size += d.to - d.from
	}
	if b, ok := w.(*buffer); ok {
		b.bytes = make([]byte, 0, h.size+4*tarBlock)
	}
	if _, err := w.Write(append(h.encode(), sparse...)); err != nil {
		return err
	}
	for _, d := range data {
		if err := copyExactly(w, io.NewSectionReader(f, d.from, d.to-d.from), d.to-d.from); err != nil {
			return err
		}
	}
	_, err := w.Write(zeroes[:padding(h.size)])
	return err
}

// copyExactly copies n bytes, and zeros where the source ends early.
func copyExactly(w io.Writer, from io.Reader, n int64) error {
	copied, err := io.CopyBuffer(struct{ io.Writer }{w}, from, make([]byte, min(n, 256<<10)+1))
	if err != nil {
		return err
	}
	for copied < n {
		part := min(n-copied, int64(len(zeroes)))
		if _, err := w.Write(zeroes[:part]); err != nil {
			return err
		}
		copied += part
	}
	return nil
}

// writeLarge writes a large file as a segment of its own. When it changes meanwhile it is stored once
// more; the first try is garbage then.
func (a *archiver) writeLarge(p *place, w *Writer, e fileEntry) error {
	changed, err := a.largeOnce(p, w, e)
	if err == nil && changed {
		if err = w.restart(a.ctx, a.repo); err == nil {
			changed, err = a.largeOnce(p, w, e)
		}
		if changed {
			a.left(below(p.path, e.name), changedWhileRead)
		}
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return errVanished
	}
	if err != nil {
		return unreadable(below(p.path, e.name), err)
	}
	return nil
}

func (a *archiver) largeOnce(p *place, w io.Writer, e fileEntry) (changed bool, _ error) {
	f, h, err := a.openFile(p, &e)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := writeFile(w, f, h, e.stat); err != nil {
		return false, err
	}
	return hasChanged(f, e.stat)
}
