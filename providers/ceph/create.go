//go:build cgo && ceph

package ceph

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Create implements providers.Volumes.
func (p *Provider) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	const op = "create volume"
	if err := checkCreate(op, request); err != nil {
		return providers.Volume{}, err
	}
	if request.Content == providers.ContentFiles {
		return p.createFolder(ctx, op, request)
	}
	var source moment
	var err error
	if !request.Snapshot.IsZero() {
		if source, err = readSnapshot(op, request.Snapshot); err != nil {
			return providers.Volume{}, err
		}
	}
	draft, err := p.draft(op, request, digest(request), source.place)
	if err != nil {
		return providers.Volume{}, err
	}
	return p.make(ctx, draft, func(ctx context.Context) error {
		if source.Snap == "" {
			return draft.empty(ctx, request.Size)
		}
		return p.fromSnapshot(ctx, draft, source, request.Size)
	})
}

func checkCreate(op string, r providers.CreateRequest) error {
	if err := checkToken(op, r.Token); err != nil {
		return err
	}
	if err := checkName(op, r.Name); err != nil {
		return err
	}
	switch {
	case r.Content != providers.ContentBlocks && r.Content != providers.ContentFiles:
		return fault.Newf(op, fault.Invalid, r.Name, "content %q: there are blocks and files", r.Content)
	case r.Size < 0, r.Size == 0 && r.Snapshot.IsZero() && r.Content == providers.ContentBlocks:
		return fault.Newf(op, fault.Invalid, r.Name, "a volume cannot have %d bytes", r.Size)
	}
	return nil
}

// draft is an image that is being made.
type draft struct {
	op      string
	cluster *cluster
	layout  layout
	io      *rados.IOContext // while it is made
	mark    mark
	done    state // of the finished image
}

// draft says what a request wants. The place of a snapshot stands for the parameters that are missing.
func (p *Provider) draft(op string, r providers.CreateRequest, request string, source place) (*draft, error) {
	if p.here == nil {
		return nil, fault.Newf(op, fault.Invalid, name, "the provider was not configured")
	}
	where := place{FSID: p.here.fsid, Pool: source.Pool, Namespace: source.Namespace}
	if where.Pool == "" && len(p.here.access.Pools) > 0 {
		where.Pool = p.here.access.Pools[0]
		if namespaces := p.here.access.Namespaces; len(namespaces) > 0 {
			where.Namespace = namespaces[0]
		}
	}
	l, err := layoutOf(op, r.Parameters, where)
	if err != nil {
		return nil, err
	}
	l.Image = nameOf(r.Name, r.Token)
	return &draft{
		op: op, cluster: p.here, layout: l, done: complete,
		mark: mark{Token: r.Token, Request: request, Tags: tagged(r.Tags, r.Token)},
	}, p.here.allowed(op, l.place)
}

// make makes an image, unless its token has made it already. What an earlier call left half made is
// removed first.
func (p *Provider) make(ctx context.Context, d *draft, fill func(ctx context.Context) error) (providers.Volume, error) {
	at := d.layout.place
	var v providers.Volume
	err := bounded(ctx, d.op, func(ctx context.Context) error {
		return p.exclusive(ctx, d.op, d.cluster, at, at.Image, func(ctx context.Context) error {
			finished, err := d.finished()
			if err != nil {
				return err
			}
			if !finished {
				if err := d.build(ctx, fill); err != nil {
					return wrap(d.op, at.String(), d.cluster.note(err))
				}
			}
			v, err = d.describe()
			return err
		})
	})
	return v, err
}

func (d *draft) build(ctx context.Context, fill func(ctx context.Context) error) error {
	at := d.layout.place
	io, err := d.cluster.pool(at.Pool, at.Namespace)
	if err != nil {
		return err
	}
	defer io.Destroy()
	left, err := d.cluster.traces(io, at)
	if err == nil && left {
		if err = d.cluster.release(d.op, io, at); err == nil {
			err = d.cluster.remove(ctx, at)
		}
	}
	if err != nil {
		return err
	}
	// librbd removes an image by way of the trash, for which a full pool has no room any more.
	if err := io.Create(trash, rados.CreateIdempotent); err != nil {
		return err
	}
	d.io = io
	return fill(ctx)
}

// finished reports whether the image is there and complete, and refuses when another request made it.
func (d *draft) finished() (bool, error) {
	i, err := d.cluster.open(d.op, d.layout.place, reader)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer i.Close()
	m := i.marks.volume
	if m == nil || m.State == deleting {
		return false, nil
	}
	if m.Token != d.mark.Token || m.Request != d.mark.Request {
		return false, fault.Newf(d.op, fault.Exists, i.at.String(), "the token was used for a different request")
	}
	return m.State == d.done, nil
}

func (d *draft) describe() (providers.Volume, error) {
	i, err := d.cluster.open(d.op, d.layout.place, reader)
	if err != nil {
		return providers.Volume{}, err
	}
	defer i.Close()
	v, err := i.describe()
	return v, wrap(d.op, i.at.String(), d.cluster.note(err))
}

// create makes an image without content, marked as being written, and opens it.
func (d *draft) create(ctx context.Context, size int64) (*image, error) {
	options, err := d.layout.options(false)
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	if err := rbd.CreateImage(d.io, d.layout.Image, uint64(size), options); err != nil {
		return nil, err
	}
	return d.begin(ctx)
}

// begin opens the image that was just made and marks it as being written.
func (d *draft) begin(ctx context.Context) (*image, error) {
	i, err := d.cluster.open(d.op, d.layout.place, writer)
	if err != nil {
		return nil, err
	}
	d.mark.Image, d.mark.State = i.at.ID, writing
	if err := d.adopt(ctx, i); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

// adopt writes the marks and metadata. A clone loses its parent's marks.
func (d *draft) adopt(ctx context.Context, i *image) error {
	if err := i.setMark(ctx, volumeKey, d.mark); err != nil {
		return err
	}
	inherited, err := i.ListMetadata()
	if err != nil {
		return err
	}
	for key := range inherited {
		if key != volumeKey && strings.HasPrefix(key, markPrefix) {
			if err := i.RemoveMetadata(key); err != nil {
				return err
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d.layout.metadata)) {
		if err := i.SetMetadata(key, d.layout.metadata[key]); err != nil {
			return err
		}
	}
	return nil
}

// finish marks the image as complete, after its content is durable.
func (d *draft) finish(ctx context.Context, i *image) error {
	if err := i.Flush(); err != nil {
		return err
	}
	d.mark.State = d.done
	return i.setMark(ctx, volumeKey, d.mark)
}

func (d *draft) empty(ctx context.Context, size int64) error {
	i, err := d.create(ctx, size)
	if err != nil {
		return err
	}
	defer i.Close()
	return d.finish(ctx, i)
}

// fromSnapshot clones, or copies what cannot be cloned: snapshots of a group, for which librbd of Ceph 16 has
// no clones, and snapshots of another cluster.
func (p *Provider) fromSnapshot(ctx context.Context, d *draft, source moment, size int64) error {
	parent, snap, err := p.openSnapshot(d.op, source)
	if err != nil {
		return err
	}
	defer parent.Close()
	if size == 0 {
		size = int64(snap.Size)
	}
	if size < int64(snap.Size) {
		return fault.Newf(d.op, fault.Invalid, source.String(), "the snapshot has %d bytes, which is more than %d", snap.Size, size)
	}
	features, err := parent.GetFeatures()
	if err != nil {
		return err
	}
	if snap.grouped || source.FSID != d.cluster.fsid || features&rbd.FeatureLayering == 0 {
		return p.fullCopy(ctx, d, parent, int64(snap.Size), size)
	}
	return d.clone(ctx, parent, source, snap, size)
}

func (d *draft) clone(ctx context.Context, parent *image, source moment, snap snapshotInfo, size int64) error {
	options, err := d.layout.options(true)
	if err != nil {
		return err
	}
	defer options.Destroy()
	if err := rbd.CloneImage(parent.io, parent.at.Image, source.Snap, d.io, d.layout.Image, options); err != nil {
		return err
	}
	i, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer i.Close()
	if uint64(size) > snap.Size {
		if err := i.Resize(uint64(size)); err != nil {
			return err
		}
	}
	if d.layout.flatten {
		providers.Report(ctx, providers.Progress{Text: "flatten " + i.at.String()})
		if err := i.Flatten(); err != nil {
			return err
		}
	}
	return d.finish(ctx, i)
}
