package repository

import (
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// writeFolder writes a folder's header and its small entries. Files are read ahead.
func (a *archiver) writeFolder(p *place, w io.Writer, self fileEntry, entries []fileEntry) error {
	header, err := a.header(p, self, ".")
	if err != nil {
		return err
	}
	header.path, header.kind = p.path+"/", tarFolder
	if p.path == "." {
		header.path = "./"
	}
	if _, err := w.Write(header.encode()); err != nil {
		return err
	}
	var ahead []*smallFile
	next := func() error {
		f := ahead[0]
		ahead = ahead[1:]
		<-f.done
		defer a.memory.give(f.taken)
		if f.err != nil {
			return f.err
		}
		_, err := w.Write(f.encoded)
		return err
	}
	defer func() { // after an error
		for _, f := range ahead {
			<-f.done
			a.memory.give(f.taken)
		}
	}()
	for _, e := range entries {
		f := &smallFile{done: make(chan struct{})}
		if e.isContent() {
			f.taken = e.stat.Size
		}
		for len(ahead) > 0 && (len(ahead) >= archiveParallel() || !a.memory.take(f.taken)) {
			if err := next(); err != nil {
				return err
			}
		}
		if len(ahead) == 0 { // one file is always allowed, so that nobody waits for ever
			f.taken = 0
		}
		ahead = append(ahead, f)
		go func() {
			defer close(f.done)
			f.encoded, f.err = a.small(p, e)
		}()
	}
	for len(ahead) > 0 {
		if err := next(); err != nil {
			return err
		}
	}
	return nil
}

// smallFile is an entry that is being read.
type smallFile struct {
	encoded []byte
	err     error
	taken   int64
	done    chan struct{}
}

// header is an entry's header from its state; name is the entry in the place, "." for the place itself.
func (a *archiver) header(p *place, e fileEntry, name string) (tarHeader, error) {
	s := e.stat
	h := tarHeader{path: below(p.path, e.name), mode: s.Mode & 0o7777, uid: s.Uid, gid: s.Gid, mtime: s.Mtim, rdev: s.Rdev, target: e.target, sparse: -1}
	kinds := map[uint32]byte{unix.S_IFREG: tarRegular, unix.S_IFDIR: tarFolder, unix.S_IFLNK: tarSymlink, unix.S_IFCHR: tarChar, unix.S_IFBLK: tarBlocks, unix.S_IFIFO: tarFIFO}
	h.kind = kinds[e.kind()]
	if e.target != "" {
		h.kind = tarLink
		return h, nil
	}
	at := "/proc/self/fd/" + strconv.Itoa(p.fd) + "/" + name
	if h.kind == tarSymlink {
		target, err := readLink(p.fd, name)
		if err != nil {
			return h, err
		}
		h.target = target
	}
	var err error
	h.xattrs, err = readXattrs(at)
	return h, err
}

func readLink(dir int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		buffer := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, buffer)
		if err != nil || n < size {
			return string(buffer[:max(n, 0)]), err
		}
	}
}
