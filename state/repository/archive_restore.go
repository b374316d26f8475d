package repository

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

// RestoreOptions say how an archive is brought back.
type RestoreOptions struct {
	// NonEmpty allows a target that holds something: what has the name of an entry is replaced, unless it
	// is the whole file already; the rest is left alone. A restore that was cut off is repeated with it.
	NonEmpty bool
}

// RestoreStats counts what was brought back.
type RestoreStats struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"` // of files
	// Left are attributes that the target's filesystem cannot hold: the first of them, and how many.
	Left      []LeftOut `json:"left,omitempty"`
	LeftCount int64     `json:"leftCount,omitempty"`
}

// RestoreArchive brings an archive back into a folder, which is made when it is missing and must be
// empty (a "lost+found" aside). Nothing outside of it is touched, whatever the archive or the folder
// holds. Content is compared with the archive's digests. Folders get their owners, modes and times last.
//
// Errors: Exists for a folder that is not empty, Corrupt for an archive that is damaged or leads out of
// itself, NoSpace, Denied.
func (r *Repository) RestoreArchive(ctx context.Context, archive Archive, target string, options RestoreOptions) (RestoreStats, error) {
	table, err := r.checkIndex(ctx, archive)
	if err != nil {
		return RestoreStats{}, err
	}
	root, err := openTarget(target, options)
	if err != nil {
		return RestoreStats{}, err
	}
	defer root.close()
	t := &restorer{tar: table, root: root.fd}
	err = r.eachSegment(ctx, archive, func(ctx context.Context, folder string, line indexLine) error {
		return t.segment(ctx, folder, line)
	})
	if err == nil {
		err = t.makeLinks()
	}
	if err == nil {
		err = t.finishFolders()
	}
	return t.stats, err
}

func openTarget(target string, options RestoreOptions) (*place, error) {
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fault.New("restore archive", kindOfFile(err), target, err)
	}
	root, err := openRoot(target)
	if err != nil {
		return nil, err
	}
	names, err := readNames(root.fd)
	if err != nil {
		root.close()
		return nil, fault.New("restore archive", kindOfFile(err), target, err)
	}
	for _, name := range names {
		if name != lostFound && !options.NonEmpty {
			root.close()
			return nil, fault.Newf("restore archive", fault.Exists, target, "it is not empty: it holds %q", name)
		}
	}
	return root, nil
}

const lostFound = "lost+found" // what a fresh ext4 holds

// restorer brings one archive back.
type restorer struct {
	tar  *contentTable
	root int

	mu      sync.Mutex // guards what follows
	folders []archiveEntry
	links   []archiveEntry
	stats   RestoreStats
}

func (t *restorer) segment(ctx context.Context, folder string, line indexLine) error {
	dir, err := openFolder(t.root, folder, true)
	if err != nil {
		return fault.New("restore archive", kindOfFile(err), folder, err)
	}
	defer unix.Close(dir)
	return t.tar.readSegment(ctx, folder, line, func(e archiveEntry) error {
		t.mu.Lock()
		t.stats.Entries++
		switch e.Typeflag {
		case tar.TypeDir:
			t.folders = append(t.folders, archiveEntry{Header: e.Header, name: e.name, path: e.path})
		case tar.TypeLink:
			t.links = append(t.links, archiveEntry{Header: e.Header, name: e.name, path: e.path})
		default:
			t.stats.Bytes += e.Size
		}
		t.mu.Unlock()
		if e.Typeflag == tar.TypeDir || e.Typeflag == tar.TypeLink {
			return nil
		}
		if err := t.entry(dir, e); err != nil {
			return fault.New("restore archive", kindOfFile(err), e.path, err)
		}
		return nil
	})
}

// openFolder goes down from a folder, step by step and without following a link.
func openFolder(root int, folder string, create bool) (int, error) {
	at, err := unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil || folder == "." {
		return at, err
	}
	for _, name := range strings.Split(folder, "/") {
		next, err := openat(at, name, unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) && create {
			if err := unix.Mkdirat(at, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) { // another segment may be first
				_ = unix.Close(at)
				return -1, err
			}
			next, err = openat(at, name, unix.O_DIRECTORY)
		}
		_ = unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// entry makes anything but folders and hard links.
func (t *restorer) entry(dir int, e archiveEntry) error {
	var there unix.Stat_t
	err := unix.Fstatat(dir, e.name, &there, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return err
	case isWhole(there, e):
		return nil // an earlier try brought it back: the time comes last
	case there.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fault.Newf("restore archive", fault.Exists, e.path, "a folder stands in its place")
	default:
		if err := unix.Unlinkat(dir, e.name, 0); err != nil {
			return err
		}
	}
	if err := t.create(dir, e); err != nil {
		return err
	}
	return t.attributes(dir, e.name, e)
}

func isWhole(there unix.Stat_t, e archiveEntry) bool {
	return e.Typeflag == tar.TypeReg && there.Mode&unix.S_IFMT == unix.S_IFREG && there.Size == e.Size &&
		there.Mtim == unix.NsecToTimespec(e.ModTime.UnixNano()) &&
		there.Mode&0o7777 == uint32(e.Mode)&0o7777 && int(there.Uid) == e.Uid && int(there.Gid) == e.Gid
}

func (t *restorer) create(dir int, e archiveEntry) error {
	device := int(unix.Mkdev(uint32(e.Devmajor), uint32(e.Devminor)))
	switch e.Typeflag {
	case tar.TypeReg:
		return createFile(dir, e)
	case tar.TypeSymlink:
		return unix.Symlinkat(e.Linkname, dir, e.name)
	case tar.TypeFifo:
		return unix.Mknodat(dir, e.name, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar:
		return unix.Mknodat(dir, e.name, unix.S_IFCHR|0o600, device)
	case tar.TypeBlock:
		return unix.Mknodat(dir, e.name, unix.S_IFBLK|0o600, device)
	default:
		return fault.Newf("restore archive", fault.Corrupt, e.path, "it is of type %q", e.Typeflag)
	}
}

func createFile(dir int, e archiveEntry) error {
	fd, err := unix.Openat(dir, e.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.name)
	if e.isSparse() {
		err = writeSparse(f, e.content, e.Size)
	} else {
		_, err = io.Copy(f, e.content)
	}
	return errors.Join(err, f.Close())
}

// writeSparse leaves out blocks of zeros.
func writeSparse(f *os.File, content io.Reader, size int64) error {
	buffer := make([]byte, leastHole)
	for at := int64(0); ; {
		n, err := io.ReadFull(content, buffer)
		if n > 0 && !isZero(buffer[:n]) {
			if _, err := f.WriteAt(buffer[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return f.Truncate(size)
		}
		if err != nil {
			return err
		}
	}
}

// attributes sets what an entry has apart from content. The order matters: a change of owner takes
// setuid and capabilities away, an ACL is part of the mode, and everything before moves the time.
func (t *restorer) attributes(dir int, name string, e archiveEntry) error {
	if err := own(dir, name, e); err != nil {
		return err
	}
	if e.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dir, name, uint32(e.Mode)&0o7777, 0); err != nil {
			return err
		}
	}
	at := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	for key, value := range e.xattrs() {
		if err := unix.Lsetxattr(at, key, []byte(value), 0); errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
			t.left(e.path, "extended attribute "+key+": "+err.Error())
		} else if err != nil {
			return err
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(e.ModTime.UnixNano())}
	return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

func own(dir int, name string, e archiveEntry) error {
	var there unix.Stat_t
	if err := unix.Fstatat(dir, name, &there, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if int(there.Uid) == e.Uid && int(there.Gid) == e.Gid {
		return nil
	}
	return unix.Fchownat(dir, name, e.Uid, e.Gid, unix.AT_SYMLINK_NOFOLLOW)
}

func (t *restorer) left(path, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.LeftCount++
	if len(t.stats.Left) < leftNamed {
		t.stats.Left = append(t.stats.Left, LeftOut{Subject: path, Reason: reason})
	}
}

// makeLinks makes the hard links, when all that they name is there.
func (t *restorer) makeLinks() error {
	for _, e := range t.links {
		err := t.link(e)
		if errors.Is(err, unix.ENOENT) { // it vanished while it was archived
			t.left(e.path, "the archive lacks the file of which it is a further name")
			continue
		}
		if err != nil {
			return fault.New("restore archive", kindOfFile(err), e.path, err)
		}
	}
	return nil
}

func (t *restorer) link(e archiveEntry) error {
	from, err := openFolder(t.root, parent(e.Linkname), false)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := openFolder(t.root, parent(e.path), false)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	first := e.Linkname[strings.LastIndexByte(e.Linkname, '/')+1:]
	err = unix.Linkat(from, first, to, e.name, 0)
	if errors.Is(err, unix.EEXIST) {
		if err := unix.Unlinkat(to, e.name, 0); err != nil {
			return err
		}
		return unix.Linkat(from, first, to, e.name, 0)
	}
	return err
}

// finishFolders sets the attributes of folders, the deepest first, so that none is changed afterwards.
func (t *restorer) finishFolders() error {
	sort.Slice(t.folders, func(i, j int) bool { return comparePaths(t.folders[i].path, t.folders[j].path) > 0 })
	for _, e := range t.folders {
		if err := t.finishFolder(e); err != nil {
			return fault.New("restore archive", kindOfFile(err), e.path, err)
		}
	}
	return nil
}

func (t *restorer) finishFolder(e archiveEntry) error {
	dir, err := openFolder(t.root, e.path, false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return t.attributes(dir, ".", e)
}
