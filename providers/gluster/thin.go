package gluster

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

// thinScript prints "thin" when the folder lies on a thin logical volume.
const thinScript = `export LC_ALL=C
source=$(findmnt -nro SOURCE --target "$1" 2>/dev/null) || exit 0
lvs --noheadings --options segtype "$source" 2>/dev/null || true`

// isThin reports whether a folder of a peer lies on thin-provisioned LVM.
func (p *pool) isThin(ctx context.Context, host, path string) (bool, error) {
	s, err := p.shell("look at bricks", host)
	if err != nil {
		return false, err
	}
	out, err := p.on(ctx, s, thinScript, path)
	return strings.TrimSpace(string(out.stdout)) == "thin", err
}

// thin reports whether any volume of this pool, or those that Muster will make, can have snapshots.
func (p *pool) thin(ctx context.Context) (bool, error) {
	var made volumeInfo
	for _, root := range p.settings.roots() {
		made.Bricks = append(made.Bricks, brickInfo{Name: root.peer.Name + ":" + root.path})
	}
	if thin, err := p.allThin(ctx, made); err != nil || thin {
		return thin, err
	}
	r, err := p.gluster(ctx, "look at bricks", Name, "volume", "info", "all")
	if err != nil {
		return false, err
	}
	for _, v := range r.Volumes {
		if thin, err := p.allThin(ctx, v); err != nil || thin {
			return thin, err
		}
	}
	return false, nil
}

// allThin reports whether all bricks of a volume lie on thin LVM. Of one on a peer that cannot be reached it
// is not known, and no reason to refuse the pool.
func (p *pool) allThin(ctx context.Context, v volumeInfo) (bool, error) {
	found := make([]bool, len(v.Bricks))
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, b := range v.Bricks {
		group.Go(func() error {
			host, path := b.split()
			thin, err := p.isThin(inner, host, path)
			if fault.Is(err, fault.Denied) {
				return err
			}
			found[i] = thin && err == nil
			return nil
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return false, ended(ctx, "look at bricks", Name)
	}
	all := len(found) > 0
	for _, thin := range found {
		all = all && thin
	}
	return all, err
}

// snapshots is ready for what needs thin LVM.
func (p *provider) snapshots(op string) (*pool, error) {
	pool, err := p.ready(op)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.thin {
		return nil, fault.Newf(op, fault.Unsupported, Name, "%s", thinReason)
	}
	return pool, nil
}
