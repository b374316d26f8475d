package repository

import (
	"context"
	"runtime"

	"github.com/musterdr/muster/providers/fault"
)

// Archive is a stored folder: one tar, made of segments that archives share, and its index. A segment
// holds a folder and what is in it apart from folders; a large file has a segment of its own.
type Archive struct {
	Object  Object `json:"object"` // files.tar; its SHA256 is empty
	Index   Object `json:"index"`  // files.index
	Digest  string `json:"digest"` // by RuleSegments
	Entries int64  `json:"entries"`
}

// ArchiveStats counts what ArchiveFolder did.
type ArchiveStats struct {
	Folders       int64 `json:"folders"`
	ReusedFolders int64 `json:"reusedFolders"` // taken from the base
	Entries       int64 `json:"entries"`       // folders and what is in them
	Bytes         int64 `json:"bytes"`         // the archive's size
	ReusedBytes   int64 `json:"reusedBytes"`   // of it, from the base
	// Left are files that changed while they were read, and what a tar cannot hold: the first of them,
	// and how many there were.
	Left      []LeftOut `json:"left,omitempty"`
	LeftCount int64     `json:"leftCount,omitempty"`
}

const (
	// largeFile is the size from which a file has a segment of its own. Smaller ones are read into
	// memory, so that one that changes meanwhile can be read again.
	largeFile = 8 << 20
	// archiveMemory bounds the small files that are held in memory by one ArchiveFolder.
	archiveMemory = 32 << 20
	// leftNamed is how many files Left names.
	leftNamed = 100
	// deepest is how many folders may lie in one another.
	deepest = 1000
)

// archiveParallel is how many segments are read, or written back, at once.
func archiveParallel() int { return min(max(2*runtime.GOMAXPROCS(0), 4), 8) }

// ArchiveConfig says what to archive.
type ArchiveConfig struct {
	Root string // the folder; "." in the archive
	// Base is an earlier archive of it: what has not changed since is taken from there. A base that was
	// made with another Exclude or OneFileSystem is not used.
	Base *Archive
	// Changed reports whether the entries of a folder ("." or a path below the root) may have changed
	// since the base. Folders of which it says no are not looked at. Nil: all are compared.
	Changed func(folder string) bool
	// Exclude are paths below the root, or patterns of path.Match: with a slash for the whole path,
	// without one for the name. What is excluded is left out with all below it.
	Exclude       []string
	OneFileSystem bool // leave out what is mounted below the root; the mount points are kept
}

// ArchiveFolder archives a folder. No symbolic link is followed, so that nothing outside of it is read
// whatever happens in it meanwhile. What vanishes meanwhile is left out; a file that changes while it is
// read is read once more, and named in the statistics when it changed again.
//
// Errors: Denied for what cannot be read, Corrupt and NotFound for a base that cannot be relied on: the
// caller then archives without it. The archive is durable after Flush, and kept as long as a recovery
// point holds both of its objects.
func (r *Repository) ArchiveFolder(ctx context.Context, config ArchiveConfig) (Archive, ArchiveStats, error) {
	session, err := r.session(ctx)
	if err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	base, err := r.openBaseIndex(ctx, config)
	if err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	defer base.close()
	ctx, cancel := context.WithCancel(ctx)
	a := &archiver{
		ctx: ctx, repo: r, config: config, base: base, links: map[uint64]string{},
		whole: newObjectIndex(ctx, session, r, config.Root), memory: newMemory(archiveMemory),
	}
	defer a.whole.abort()
	defer a.end(cancel)
	if a.index, err = r.newIndexWriter(ctx, config); err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	defer a.index.abort()
	if err := a.run(); err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	return a.commit()
}

func (a *archiver) run() error {
	root, err := openRoot(a.config.Root)
	if err != nil {
		return err
	}
	defer root.close()
	if err := a.folder(root, 0); err != nil {
		return err
	}
	for len(a.pending) > 0 {
		if err := a.settle(); err != nil {
			return err
		}
	}
	return nil
}

func (a *archiver) commit() (Archive, ArchiveStats, error) {
	trailer, err := a.repo.putChunk(a.ctx, "end of archive", make([]byte, 2*tarBlock), splitChunk)
	if err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	if err := a.whole.entry(2*tarBlock, trailer.String()); err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	id, err := a.whole.commit()
	if err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	index, digest, err := a.index.commit(a.stats)
	if err != nil {
		return Archive{}, ArchiveStats{}, err
	}
	a.stats.Bytes = a.whole.size
	return Archive{Object: Object{ID: id, Size: a.whole.size}, Index: index, Digest: digest, Entries: a.stats.Entries}, a.stats, nil
}

// end waits for the workers.
func (a *archiver) end(cancel context.CancelFunc) {
	cancel()
	for _, p := range a.pending {
		<-p.done
	}
}

// memory is a bounded number of bytes that readers share.
type memory struct{ left chan int64 }

func newMemory(bytes int64) *memory {
	m := &memory{left: make(chan int64, 1)}
	m.left <- bytes
	return m
}

// take takes n bytes, or says that they are not to be had now.
func (m *memory) take(n int64) bool {
	left := <-m.left
	ok := left >= n
	if ok {
		left -= n
	}
	m.left <- left
	return ok
}

func (m *memory) give(n int64) { m.left <- n + <-m.left }

func unreadable(path string, err error) error {
	return fault.New("archive folder", kindOfFile(err), path, err)
}
