//go:build cgo && ceph

package ceph

import (
	"context"
	"errors"
	"io"
	"iter"
	"maps"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Keys of CopyRequest.Target beside those of the parameters pool, namespace and dataPool.
const clusterTarget = "cluster"

// CopySnapshot implements providers.Snapshots. It makes an image that holds the content and goes with its
// snapshot, in a pool of this cluster or in one of the settings' targets.
func (p *Provider) CopySnapshot(ctx context.Context, request providers.CopyRequest) (providers.Snapshot, error) {
	const op = "copy snapshot"
	at, err := readSnapshot(op, request.Snapshot)
	if err != nil {
		return providers.Snapshot{}, err
	}
	if err := checkToken(op, request.Token); err != nil {
		return providers.Snapshot{}, err
	}
	if at.FS != "" {
		return providers.Snapshot{}, fault.Newf(op, fault.Unsupported, at.String(), "snapshots of CephFS are not copied: capture their files")
	}
	var s providers.Snapshot
	err = bounded(ctx, op, func(ctx context.Context) error {
		source, info, err := p.openSnapshot(op, at)
		if err != nil {
			return err
		}
		defer source.Close()
		d, err := p.copyDraft(op, request, source)
		if err != nil {
			return err
		}
		if _, err := p.make(ctx, d, func(ctx context.Context) error {
			return p.fullCopy(ctx, d, source, int64(info.Size), int64(info.Size))
		}); err != nil {
			return err
		}
		s, err = d.copiedSnapshot()
		return err
	})
	return s, err
}

// copyDraft is an image like the source's in the place that the target names.
func (p *Provider) copyDraft(op string, request providers.CopyRequest, source *image) (*draft, error) {
	c := p.here
	v, err := source.describe()
	if err != nil {
		return nil, wrap(op, source.at.String(), err)
	}
	parameters := maps.Clone(v.Parameters)
	delete(parameters, dataPoolParameter)
	delete(parameters, namespaceParameter)
	for key, value := range request.Target {
		switch key {
		case clusterTarget:
			if c, err = p.target(op, value); err != nil {
				return nil, err
			}
			if _, named := request.Target[poolParameter]; !named {
				parameters[poolParameter] = c.access.Pools[0]
			}
		case poolParameter, namespaceParameter, dataPoolParameter:
			parameters[key] = value
		default:
			return nil, fault.Newf(op, fault.Invalid, key+"="+value, "a target has %q, %q, %q and %q", clusterTarget, poolParameter, namespaceParameter, dataPoolParameter)
		}
	}
	l, err := layoutOf(op, parameters, place{FSID: c.fsid})
	if err != nil {
		return nil, err
	}
	l.Image = nameOf("", request.Token)
	return &draft{
		op: op, cluster: c, layout: l, done: copied,
		mark: mark{Token: request.Token, Request: digest(request), Tags: tagged(request.Tags, request.Token), Copy: true},
	}, c.allowed(op, l.place)
}

// fullCopy reads what a snapshot holds and writes it into a new image; a copy is given its snapshot before
// it is complete.
func (p *Provider) fullCopy(ctx context.Context, d *draft, source *image, content, size int64) error {
	i, err := d.create(ctx, size)
	if err != nil {
		return err
	}
	defer i.Close()
	at := moment{place: source.at}
	differ := &diff{op: d.op, at: at, image: source, size: uint64(content)}
	blocks, stop := stream(ctx, source, differ)
	defer stop()
	if err := i.fill(ctx, d.op, size, false, blocks); err != nil {
		return err
	}
	if err := source.still(d.op, moment{}); err != nil {
		return err
	}
	if d.mark.Copy {
		if err := d.takeCopy(ctx, i); err != nil {
			return err
		}
	}
	return d.finish(ctx, i)
}

// takeCopy takes the snapshot of a copy.
func (d *draft) takeCopy(ctx context.Context, i *image) error {
	if err := i.Flush(); err != nil {
		return err
	}
	if _, err := i.CreateSnapshot(i.at.Image); err != nil {
		return err
	}
	id, err := i.GetSnapID(i.at.Image)
	if err != nil {
		return err
	}
	stamp, err := i.GetSnapTimestamp(id)
	if err != nil {
		return err
	}
	m := snapshotMark{mark: d.mark, SnapID: id, Instant: time.Unix(stamp.Sec, stamp.Nsec).UTC()}
	m.State, m.Image = complete, i.at.ID
	return i.setMark(ctx, snapshotMarkKey+i.at.Image, m)
}

func (d *draft) copiedSnapshot() (providers.Snapshot, error) {
	i, err := d.cluster.open(d.op, d.layout.place, reader)
	if err != nil {
		return providers.Snapshot{}, err
	}
	defer i.Close()
	info, err := i.taken(d.op, i.at.Image)
	if err != nil {
		return providers.Snapshot{}, err
	}
	s, err := i.describeSnapshot(i.at.Image, info)
	return s, wrap(d.op, i.at.String(), d.cluster.note(err))
}

// stream is a source with all that a snapshot holds, and what ends it.
func stream(ctx context.Context, from *image, d *diff) (providers.Source, func()) {
	next, stop := iter.Pull2(func(yield func(providers.Block, error) bool) {
		err := d.run(ctx, func(extents []providers.Extent) error {
			return from.readAll(ctx, extents, func(b providers.Block) error {
				if !yield(b, nil) {
					return context.Canceled
				}
				return nil
			})
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			yield(providers.Block{}, err)
		}
	})
	return func() (providers.Block, error) {
		block, err, more := next()
		if !more {
			return block, cmpError(ctx.Err(), io.EOF)
		}
		return block, err
	}, stop
}
