package repository

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"sort"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

// place is a folder on the way down. It is opened when it is needed, from its parent, without
// following a link.
type place struct {
	parent *place
	path   string // "." for the root
	name   string
	fd     int // -1 when it isn't open
	dev    uint64
}

func openRoot(root string) (*place, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, unreadable(root, err)
	}
	p := &place{path: ".", fd: fd}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		p.close()
		return nil, unreadable(root, err)
	}
	p.dev = stat.Dev
	return p, nil
}

func (p *place) child(name string) *place {
	return &place{parent: p, path: below(p.path, name), name: name, fd: -1}
}

func (p *place) open() error {
	if p.fd >= 0 {
		return nil
	}
	if err := p.parent.open(); err != nil {
		return err
	}
	fd, err := openat(p.parent.fd, p.name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	p.fd = fd
	return nil
}

func (p *place) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd) // it was only read
		p.fd = -1
	}
}

// below joins a name to a folder of the archive, of which "." is the root.
func below(folder, name string) string {
	if folder == "." {
		return name
	}
	return folder + "/" + name
}

// openat opens an entry for reading and neither follows a link nor waits for a pipe.
func openat(dir int, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOATIME, 0)
		if errors.Is(err, unix.EPERM) { // only owners may leave the access time alone
			fd, err = unix.Openat(dir, name, flags, 0)
		}
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// fileEntry is an entry of a folder, as it was when the folder was looked at.
type fileEntry struct {
	name   string
	stat   unix.Stat_t
	target string // of a further hard link: the path of the first one
}

func (e fileEntry) kind() uint32  { return e.stat.Mode & unix.S_IFMT }
func (e fileEntry) isLarge() bool { return e.isContent() && e.stat.Size > largeFile }

// isContent says that the entry's content is stored with it.
func (e fileEntry) isContent() bool { return e.kind() == unix.S_IFREG && e.target == "" }

// state is what must be the same for an entry to count as unchanged. Every change of content, owner,
// mode or extended attributes moves the time of change.
func (e fileEntry) state() []byte {
	s := e.stat
	b := make([]byte, 0, 128)
	for _, n := range []uint64{uint64(s.Mode), uint64(s.Uid), uint64(s.Gid), uint64(s.Size), s.Ino, s.Rdev,
		uint64(s.Mtim.Sec), uint64(s.Mtim.Nsec), uint64(s.Ctim.Sec), uint64(s.Ctim.Nsec)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// listing is a folder as it was looked at.
type listing struct {
	self    fileEntry
	entries []fileEntry // all but folders, sorted
	folders []string    // sorted
}

// state is the digest of all that decides whether a folder's segment can be used again.
func (l *listing) state() string {
	sum := sha256.New()
	sum.Write(l.self.state())
	for _, e := range l.entries {
		sum.Write([]byte(e.name))
		sum.Write([]byte{0})
		state := e.state()
		if e.isLarge() { // it has a state of its own
			state = state[:4]
		}
		sum.Write(state)
		sum.Write([]byte(e.target))
		sum.Write([]byte{0})
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (e fileEntry) digest() string {
	sum := sha256.Sum256(e.state())
	return hex.EncodeToString(sum[:])
}

// list looks at a folder. What vanishes meanwhile is left out.
func (a *archiver) list(p *place) (*listing, error) {
	if err := p.open(); err != nil {
		return nil, err
	}
	names, err := readNames(p.fd)
	if err != nil {
		return nil, unreadable(p.path, err)
	}
	l := &listing{self: fileEntry{name: p.name}}
	if err := unix.Fstat(p.fd, &l.self.stat); err != nil {
		return nil, unreadable(p.path, err)
	}
	p.dev = l.self.stat.Dev
	if a.config.OneFileSystem && p.dev != a.rootDev(p) {
		return l, nil // a mount point: the folder alone
	}
	kept := names[:0]
	for _, name := range names {
		if !a.excluded(below(p.path, name), name) {
			kept = append(kept, name)
		}
	}
	entries, err := statAll(p, kept)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch {
		case e.name == "": // it has vanished
		case e.kind() == unix.S_IFDIR:
			l.folders = append(l.folders, e.name)
		case e.kind() == unix.S_IFSOCK:
			a.left(below(p.path, e.name), "a socket")
		default:
			l.entries = append(l.entries, e)
		}
	}
	return l, nil
}

// statAll looks at many entries at once: on a network's filesystem each look is a round trip.
func statAll(p *place, names []string) ([]fileEntry, error) {
	sort.Strings(names)
	entries := make([]fileEntry, len(names))
	const together = 64
	looking := errgroup.Group{}
	looking.SetLimit(archiveParallel())
	for from := 0; from < len(names); from += together {
		looking.Go(func() error {
			for i := from; i < min(from+together, len(names)); i++ {
				err := unix.Fstatat(p.fd, names[i], &entries[i].stat, unix.AT_SYMLINK_NOFOLLOW)
				if errors.Is(err, unix.ENOENT) {
					continue
				}
				if err != nil {
					return unreadable(below(p.path, names[i]), err)
				}
				entries[i].name = names[i]
			}
			return nil
		})
	}
	return entries, looking.Wait()
}

func readNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	var names []string
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

func (a *archiver) excluded(whole, name string) bool {
	for _, pattern := range a.config.Exclude {
		subject := name
		if strings.Contains(pattern, "/") {
			subject = whole
		}
		pattern = strings.Trim(strings.TrimPrefix(pattern, "./"), "/")
		if matched, err := path.Match(pattern, subject); matched || err != nil && pattern == subject {
			return true
		}
	}
	return false
}

// kindOfFile is the kind of an error of the filesystem.
func kindOfFile(err error) fault.Kind {
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return known.Kind
	case errors.Is(err, fs.ErrPermission):
		return fault.Denied
	case errors.Is(err, fs.ErrNotExist):
		return fault.NotFound
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fault.NoSpace
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return fault.Invalid
	default:
		return fault.Transient
	}
}
