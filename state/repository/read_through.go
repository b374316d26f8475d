package repository

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/snapshot"

	"github.com/musterdr/muster/providers/fault"
)

// ReadThrough reads every distinct content of a point once, so that damage shows before anything is
// restored from it. What machines have in common is read once: that is what makes it cheaper than
// Verify, which also compares the digests of whole files. progress may be called concurrently.
//
// Errors: Corrupt for content that is damaged or missing.
func (r *Repository) ReadThrough(ctx context.Context, p Point, progress func(bytes, files int64)) error {
	from, err := r.reading(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	seen := map[content.ID]bool{}
	first := func(id content.ID) bool {
		mu.Lock()
		defer mu.Unlock()
		if seen[id] {
			return false
		}
		seen[id] = true
		return true
	}
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	err = r.walk(working, p.Root, "", func(path string, entry *snapshot.DirEntry) error {
		group.Go(func() error {
			ids, err := from.VerifyObject(working, entry.ObjectID)
			for _, id := range ids {
				if err == nil && first(id) {
					err = r.readContent(working, id, progress)
				}
			}
			if err != nil {
				return fault.New("read recovery point", fault.KindOf(r.config.fail("read", err)), path, err)
			}
			progress(0, 1)
			return nil
		})
		return working.Err()
	})
	if waited := group.Wait(); waited != nil {
		return waited
	}
	return err
}

func (r *Repository) readContent(ctx context.Context, id content.ID, progress func(bytes, files int64)) error {
	read, err := r.repo.ContentReader().GetContent(ctx, id)
	if err != nil {
		return r.config.fail("read content", err)
	}
	progress(int64(len(read)), 0)
	return nil
}
