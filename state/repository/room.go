package repository

import (
	"net/url"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

const (
	// reserve stays free on a repository's filesystem: on a full one nobody could delete a recovery
	// point, because that writes, too. It is also what makes a full disk show at once: kopia itself
	// tries each blob again for minutes.
	reserve = 64 << 20
	// lookEvery is how much may be written between two looks at the free space.
	lookEvery = 8 << 20
)

// room watches the free space of a repository on a directory. Its zero value watches nothing.
type room struct {
	directory string
	free      func() (bytes uint64, err error)
	written   atomic.Int64 // since the last look
}

func roomOf(location string) *room {
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "file" {
		return &room{}
	}
	r := &room{directory: u.Path, free: func() (uint64, error) {
		var stat unix.Statfs_t
		err := unix.Statfs(u.Path, &stat)
		return stat.Bavail * uint64(stat.Bsize), err
	}}
	r.written.Store(lookEvery) // look at once
	return r
}

// take announces that n bytes are going to be written. It returns fault.NoSpace when there is no room.
func (r *room) take(n int) error {
	if r.free == nil || r.written.Add(int64(n)) < lookEvery {
		return nil
	}
	r.written.Store(0)
	free, err := r.free()
	if err != nil {
		return fault.New("look at free space", fault.Transient, r.directory, err)
	}
	if free >= reserve {
		return nil
	}
	r.written.Store(lookEvery) // the next one looks, too
	return fault.Newf("write repository", fault.NoSpace, r.directory, "no space left: %d MiB are free, of which %d stay for deleting recovery points; make room and resume",
		free>>20, reserve>>20)
}
