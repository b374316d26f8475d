package repository

import (
	"context"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/object"
	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

// presence looks that contents are there, and long enough. Where a flipped bit is, only reading would
// tell; that is for the verification of recovery points.
type presence struct {
	repo *Repository
	name string
	need map[blob.ID]int64 // how long each pack must be at least
}

func (r *Repository) newPresence(name string) *presence {
	return &presence{repo: r, name: name, need: map[blob.ID]int64{}}
}

// add looks a content up in kopia's index: fault.Corrupt when it is not there, fault.NotFound when it
// is being removed. The object must be a direct one.
func (p *presence) add(ctx context.Context, id object.ID) error {
	wanted, _, _ := id.ContentID()
	info, err := p.repo.contents().ContentInfo(ctx, wanted)
	if err != nil {
		return p.repo.config.fail("look for "+id.String(), err)
	}
	if info.Deleted {
		return fault.Newf("look for content", fault.NotFound, id.String(), "maintenance is removing it: no recovery point used it any more")
	}
	p.need[info.PackBlobID] = max(p.need[info.PackBlobID], int64(info.PackOffset)+int64(info.PackedLength))
	return nil
}

// check looks at the packs that hold what was added.
func (p *presence) check(ctx context.Context) error {
	looking, ctx := errgroup.WithContext(ctx)
	looking.SetLimit(imageParallel())
	for id, length := range p.need {
		looking.Go(func() error {
			found, err := p.repo.repo.BlobReader().GetMetadata(ctx, id)
			if err != nil {
				return fault.New("check base", fault.KindOf(p.repo.config.fail("look at blob", err)), p.name, err)
			}
			if found.Length < length {
				return fault.Newf("check base", fault.Corrupt, p.name, "blob %s has %d bytes, and %d are needed", id, found.Length, length)
			}
			return nil
		})
	}
	return looking.Wait()
}
