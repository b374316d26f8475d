package repository

import (
	"context"
	"errors"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

// archiver makes one archive. The walk runs in one goroutine; segments are made by others, and settled
// into archive and index in the walk's order.
type archiver struct {
	ctx     context.Context
	repo    *Repository
	config  ArchiveConfig
	base    *indexCursor
	index   *indexWriter
	whole   *objectIndex
	memory  *memory
	links   map[uint64]string // the first path of each inode with several names
	pending []*segment
	running int

	mu    sync.Mutex // guards stats.Left and LeftCount, which workers add to
	stats ArchiveStats
}

// segment is a part of the archive on its way.
type segment struct {
	lines  []indexLine // the first one is completed with what was stored
	reused bool
	count  int64 // entries
	stored Object
	err    error
	done   chan struct{}
}

// folder archives a folder and all below it.
func (a *archiver) folder(p *place, depth int) error {
	defer p.close()
	if depth > deepest {
		return fault.Newf("archive folder", fault.Unsupported, p.path, "more than %d folders lie in one another", deepest)
	}
	if err := a.ctx.Err(); err != nil {
		return fault.New("archive folder", fault.Transient, p.path, err)
	}
	known, err := a.base.find(p.path)
	if err != nil {
		return err
	}
	if known != nil && a.config.Changed != nil && !a.config.Changed(p.path) && a.sameLinks(known) {
		if err := a.reuse(known); err != nil {
			return err
		}
		return a.knownFolders(p, depth)
	}
	l, err := a.list(p)
	if p.parent != nil && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
		return nil // it has vanished, or something else stands in its place
	}
	if err != nil {
		return unreadable(p.path, err)
	}
	if err := a.segments(p, l, known); err != nil {
		return err
	}
	for _, name := range l.folders {
		if err := a.folder(p.child(name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// knownFolders goes on with the folders that the base has in one that has not changed.
func (a *archiver) knownFolders(p *place, depth int) error {
	last := ""
	for next := a.base.peek(); next != ""; next = a.base.peek() {
		name, inside := strings.CutPrefix(next, p.path+"/")
		if p.path == "." {
			name, inside = next, true
		}
		if !inside {
			return nil
		}
		if above, _, deeper := strings.Cut(name, "/"); deeper && above == last { // it is gone since
			if _, err := a.base.find(next); err != nil {
				return err
			}
			continue
		} else if deeper {
			return badIndex("it lacks a folder above %q", next)
		}
		if err := a.folder(p.child(name), depth+1); err != nil {
			return err
		}
		last = name
	}
	return nil
}

// segments hands a folder that was looked at to the workers, or takes it from the base.
func (a *archiver) segments(p *place, l *listing, known *indexFolder) error {
	var links []indexLine
	for i := range l.entries {
		e := &l.entries[i]
		if e.kind() != unix.S_IFREG || e.stat.Nlink < 2 || e.stat.Dev != a.rootDev(p) {
			continue
		}
		first, seen := a.links[e.stat.Ino]
		if seen {
			e.target = first
		} else {
			a.links[e.stat.Ino] = below(p.path, e.name)
		}
		links = append(links, indexLine{Link: fileName(e.name), Inode: e.stat.Ino, Target: fileName(e.target)})
	}
	state := l.state()
	own := indexLine{Folder: fileName(p.path), State: state, Count: int64(1 + len(l.entries))}
	a.stats.Folders++
	var large []fileEntry
	small := l.entries[:0:0]
	for _, e := range l.entries {
		if e.isLarge() {
			large = append(large, e)
			own.Count--
		} else {
			small = append(small, e)
		}
	}
	if known != nil && known.line.State == state {
		a.stats.ReusedFolders++
		if err := a.push(&segment{lines: append([]indexLine{known.line}, links...), reused: true, count: own.Count}); err != nil {
			return err
		}
	} else if err := a.start(p, &segment{lines: append([]indexLine{own}, links...), count: own.Count}, func(p *place, w *Writer) error {
		return a.writeFolder(p, w, l.self, small)
	}); err != nil {
		return err
	}
	for _, e := range large {
		if err := a.large(p, e, known); err != nil {
			return err
		}
	}
	return nil
}

func (a *archiver) rootDev(p *place) uint64 {
	for p.parent != nil {
		p = p.parent
	}
	return p.dev
}

func (a *archiver) large(p *place, e fileEntry, known *indexFolder) error {
	line := indexLine{File: fileName(below(p.path, e.name)), State: e.digest(), Count: 1}
	if known != nil {
		for _, old := range known.files {
			if *old.File == *line.File && old.State == line.State {
				return a.push(&segment{lines: []indexLine{old}, reused: true, count: 1})
			}
		}
	}
	return a.start(p, &segment{lines: []indexLine{line}, count: 1}, func(p *place, w *Writer) error {
		return a.writeLarge(p, w, e)
	})
}

// sameLinks reports whether the hard links of a folder of the base play the parts that they played
// then, and takes note of the first ones.
func (a *archiver) sameLinks(known *indexFolder) bool {
	for _, line := range known.links {
		if first := a.links[line.Inode]; first != string(*line.Target) {
			return false
		}
	}
	for _, line := range known.links {
		if *line.Target == "" {
			a.links[line.Inode] = below(string(*known.line.Folder), string(*line.Link))
		}
	}
	return true
}

// reuse takes a folder with its large files from the base.
func (a *archiver) reuse(known *indexFolder) error {
	a.stats.Folders++
	a.stats.ReusedFolders++
	err := a.push(&segment{lines: append([]indexLine{known.line}, known.links...), reused: true, count: known.line.Count})
	for _, line := range known.files {
		if err == nil {
			err = a.push(&segment{lines: []indexLine{line}, reused: true, count: 1})
		}
	}
	return err
}

// push queues a segment, and settles those at the head of the queue that are too many.
func (a *archiver) push(s *segment) error {
	if s.done == nil {
		s.done = make(chan struct{})
		close(s.done)
	}
	a.pending = append(a.pending, s)
	for len(a.pending) > 256 {
		if err := a.settle(); err != nil {
			return err
		}
	}
	return nil
}

// start makes a segment in a goroutine, which has the folder open on its own.
func (a *archiver) start(p *place, s *segment, write func(*place, *Writer) error) error {
	for a.running >= archiveParallel() {
		if err := a.settle(); err != nil {
			return err
		}
	}
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return unreadable(p.path, err)
	}
	own := &place{path: p.path, name: p.name, fd: fd, dev: p.dev}
	s.done = make(chan struct{})
	a.running++
	go func() {
		defer close(s.done)
		defer own.close()
		s.stored, s.err = a.store(own, s, write)
	}()
	return a.push(s)
}

func (a *archiver) store(p *place, s *segment, write func(*place, *Writer) error) (Object, error) {
	w, err := a.repo.Create(a.ctx, p.path)
	if err != nil {
		return Object{}, err
	}
	defer w.Abort()
	err = write(p, w)
	if errors.Is(err, errVanished) {
		s.count = 0
		return Object{}, nil
	}
	if err != nil {
		return Object{}, err
	}
	return w.Commit()
}

// errVanished says that a large file is not there any more.
var errVanished = errors.New("it has vanished")

// settle waits for the first pending segment and writes it into archive and index.
func (a *archiver) settle() error {
	s := a.pending[0]
	<-s.done
	a.pending[0] = nil
	a.pending = a.pending[1:]
	if !s.reused {
		a.running--
		s.lines[0].Size, s.lines[0].SHA256 = s.stored.Size, s.stored.SHA256
	}
	if s.err != nil {
		return s.err
	}
	if s.count == 0 {
		return nil
	}
	first := s.lines[0]
	a.stats.Entries += s.count
	if s.reused {
		a.stats.ReusedBytes += first.Size
	}
	for _, line := range s.lines {
		if err := a.index.add(line); err != nil {
			return err
		}
	}
	return a.join(s)
}

// join appends a segment's contents to the whole. Never the segment as one object: whoever reads the
// whole takes each of its parts into memory at once.
func (a *archiver) join(s *segment) error {
	if !s.reused && !strings.HasPrefix(string(s.stored.ID), "I") {
		return a.whole.entry(s.stored.Size, string(s.stored.ID))
	}
	table, offset, length := a.base.table(), s.lines[0].offset, s.lines[0].Size
	if !s.reused {
		own, err := a.repo.contentTable(a.ctx, s.stored.ID)
		if err != nil {
			return err
		}
		table, offset = own, 0
	}
	entries, err := table.span(offset, length)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := a.whole.entry(e.Length, e.Object.String()); err != nil {
			return err
		}
	}
	return nil
}

// left takes note of something that is not, or not reliably, in the archive.
func (a *archiver) left(path, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stats.LeftCount++
	if len(a.stats.Left) < leftNamed {
		a.stats.Left = append(a.stats.Left, LeftOut{Subject: path, Reason: reason})
	}
}
