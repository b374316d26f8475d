package repository

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

// ArchiveReport says in what a folder differs from an archive.
type ArchiveReport struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"` // of files, compared byte by byte
	// Differences are the first ones, and how many there are.
	Differences     []LeftOut `json:"differences,omitempty"`
	DifferenceCount int64     `json:"differenceCount"`
}

// VerifyArchive compares a folder with an archive: names, types, owners, modes, times, extended
// attributes, hard links and content. A "lost+found" at the root may be there in addition.
func (r *Repository) VerifyArchive(ctx context.Context, archive Archive, target string) (ArchiveReport, error) {
	table, err := r.checkIndex(ctx, archive)
	if err != nil {
		return ArchiveReport{}, err
	}
	root, err := openRoot(target)
	if err != nil {
		return ArchiveReport{}, err
	}
	defer root.close()
	c := &comparison{tar: table, root: root.fd}
	if c.known, err = r.namesBelow(ctx, archive); err != nil {
		return ArchiveReport{}, err
	}
	err = r.eachSegment(ctx, archive, c.segment)
	return c.report, err
}

// comparison compares one folder with one archive.
type comparison struct {
	tar   *contentTable
	root  int
	known map[string]map[string]bool // folders and large files, by the folder that they lie in

	mu     sync.Mutex // guards report
	report ArchiveReport
}

// namesBelow are the names that stand in the index and not in the segment of their folder.
func (r *Repository) namesBelow(ctx context.Context, archive Archive) (map[string]map[string]bool, error) {
	file, in, err := r.openIndex(ctx, archive)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	out := map[string]map[string]bool{}
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, r.indexFailed(err)
		}
		path := ""
		if line.Folder != nil {
			path = string(*line.Folder)
		} else if line.File != nil {
			path = string(*line.File)
		}
		if path == "" || path == "." {
			continue
		}
		above := parent(path)
		if out[above] == nil {
			out[above] = map[string]bool{}
		}
		out[above][path[strings.LastIndexByte(path, '/')+1:]] = true
	}
}

func (c *comparison) segment(ctx context.Context, folder string, line indexLine) error {
	dir, err := openFolder(c.root, folder, false)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		c.differs(folder, "the folder is missing")
		return nil
	}
	if err != nil {
		return fault.New("compare with archive", kindOfFile(err), folder, err)
	}
	defer unix.Close(dir)
	names := map[string]bool{}
	err = c.tar.readSegment(ctx, folder, line, func(e archiveEntry) error {
		names[e.name] = true
		if err := c.entry(dir, e); err != nil {
			return fault.New("compare with archive", kindOfFile(err), e.path, err)
		}
		return nil
	})
	if err != nil || line.File != nil {
		return err
	}
	return c.extra(dir, folder, names)
}

// extra finds what the archive lacks.
func (c *comparison) extra(dir int, folder string, names map[string]bool) error {
	there, err := readNames(dir)
	if err != nil {
		return fault.New("compare with archive", kindOfFile(err), folder, err)
	}
	for _, name := range there {
		if !names[name] && !c.known[folder][name] && (folder != "." || name != lostFound) {
			c.differs(below(folder, name), "the archive lacks it")
		}
	}
	return nil
}

func (c *comparison) differs(path, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.DifferenceCount++
	if len(c.report.Differences) < leftNamed {
		c.report.Differences = append(c.report.Differences, LeftOut{Subject: path, Reason: fmt.Sprintf(format, args...)})
	}
}

func (c *comparison) entry(dir int, e archiveEntry) error {
	c.mu.Lock()
	c.report.Entries++
	c.mu.Unlock()
	var there unix.Stat_t
	err := unix.Fstatat(dir, e.name, &there, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		c.differs(e.path, "it is missing")
		return nil
	}
	if err != nil {
		return err
	}
	if e.Typeflag == tar.TypeLink {
		return c.link(e, there)
	}
	if kinds := map[byte]uint32{tar.TypeReg: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}; there.Mode&unix.S_IFMT != kinds[e.Typeflag] {
		c.differs(e.path, "it is of another type")
		return nil
	}
	c.attributes(e, there)
	if err := c.xattrs(dir, e); err != nil {
		return err
	}
	switch e.Typeflag {
	case tar.TypeReg:
		return c.content(dir, e)
	case tar.TypeSymlink:
		target, err := readLink(dir, e.name)
		if err == nil && target != e.Linkname {
			c.differs(e.path, "it leads to %q and should to %q", target, e.Linkname)
		}
		return err
	}
	return nil
}

func (c *comparison) attributes(e archiveEntry, there unix.Stat_t) {
	if e.Typeflag != tar.TypeSymlink && there.Mode&0o7777 != uint32(e.Mode)&0o7777 {
		c.differs(e.path, "its mode is %o and should be %o", there.Mode&0o7777, e.Mode&0o7777)
	}
	if int(there.Uid) != e.Uid || int(there.Gid) != e.Gid {
		c.differs(e.path, "it is owned by %d:%d and should be by %d:%d", there.Uid, there.Gid, e.Uid, e.Gid)
	}
	if there.Mtim != unix.NsecToTimespec(e.ModTime.UnixNano()) {
		c.differs(e.path, "its time is another")
	}
	if e.Typeflag == tar.TypeReg && there.Size != e.Size {
		c.differs(e.path, "it has %d bytes and should have %d", there.Size, e.Size)
	}
	if device := unix.Mkdev(uint32(e.Devmajor), uint32(e.Devminor)); (e.Typeflag == tar.TypeChar || e.Typeflag == tar.TypeBlock) && there.Rdev != device {
		c.differs(e.path, "it is device %x and should be %x", there.Rdev, device)
	}
}

func (c *comparison) xattrs(dir int, e archiveEntry) error {
	got, err := readXattrs("/proc/self/fd/" + strconv.Itoa(dir) + "/" + e.name)
	if err == nil && !maps.Equal(got, e.xattrs()) {
		c.differs(e.path, "its extended attributes are others")
	}
	return err
}

// link compares a hard link: it must be the same file as the first name.
func (c *comparison) link(e archiveEntry, there unix.Stat_t) error {
	dir, err := openFolder(c.root, parent(e.Linkname), false)
	if err == nil {
		defer unix.Close(dir)
		var first unix.Stat_t
		err = unix.Fstatat(dir, e.Linkname[strings.LastIndexByte(e.Linkname, '/')+1:], &first, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && first.Ino == there.Ino && first.Dev == there.Dev {
			return nil
		}
	}
	c.differs(e.path, "it is not the same file as %q", e.Linkname)
	return nil
}

func (c *comparison) content(dir int, e archiveEntry) error {
	fd, err := openat(dir, e.name, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.name)
	defer f.Close()
	want, got := make([]byte, 64<<10), make([]byte, 64<<10)
	for size := int64(0); ; {
		n, err := io.ReadFull(e.content, want)
		m, fileErr := io.ReadFull(f, got[:n])
		if size += int64(n); m != n || !bytes.Equal(want[:n], got[:m]) {
			c.differs(e.path, "its content is another")
			return nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.report.Bytes += size
			return nil
		}
		if err := errors.Join(err, fileErr); err != nil {
			return err
		}
	}
}
