//go:build cgo && ceph

package ceph

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// TagState is a tag that only images have which are no volumes (yet): half written, or half deleted. Discover
// shows those to queries that name it, so that what nobody repeated can be found and deleted.
const TagState = "muster.dev/state"

// parallel is how many images are looked at, read or written at once.
const parallel = 8

// Discover implements providers.Volumes.
func (p *Provider) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	const op = "discover volumes"
	if query.Machine != "" {
		return nil
	}
	return guarded(ctx, op, each, func(ctx context.Context, each func(providers.Volume) error) error {
		err := p.eachImage(ctx, op, func(i *image) (func() error, error) {
			v, there, err := i.discovered(query)
			if err != nil || !there {
				return nil, err
			}
			return func() error { return each(v) }, nil
		})
		if err != nil {
			return err
		}
		return p.discoverFiles(ctx, query, each)
	})
}

// discovered is an image as a volume, if the query wants it.
func (i *image) discovered(query providers.Query) (providers.Volume, bool, error) {
	_, all := query.Tags[TagState]
	unfinished := i.marks.unfinished() != ""
	if unfinished != all {
		return providers.Volume{}, false, nil
	}
	v, err := i.describe()
	if err != nil {
		return v, false, err
	}
	if unfinished && i.marks.volume != nil {
		v.Tags[TagState] = string(i.marks.volume.State)
	}
	return v, matches(query, v.Tags, v.ID), nil
}

// eachImage opens all images of the settings' pools, several at once, and calls what look returns, one at a
// time. An image that is deleted meanwhile is passed over.
func (p *Provider) eachImage(ctx context.Context, op string, look func(*image) (func() error, error)) error {
	if p.here == nil {
		return fault.Newf(op, fault.Invalid, name, "the provider was not configured")
	}
	places, err := p.places(op)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work := make(chan place)
	var one sync.Mutex
	var first error
	var group sync.WaitGroup
	for range parallel {
		group.Go(func() {
			for at := range work {
				if err := p.lookAt(op, at, &one, look); err != nil {
					one.Lock()
					first = cmpError(first, err)
					one.Unlock()
					cancel()
				}
			}
		})
	}
	for _, at := range places {
		select {
		case work <- at:
		case <-ctx.Done():
		}
	}
	close(work)
	group.Wait()
	return cmpError(first, wrap(op, "", ctx.Err()))
}

func cmpError(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

func (p *Provider) lookAt(op string, at place, one *sync.Mutex, look func(*image) (func() error, error)) error {
	i, err := p.here.open(op, at, reader)
	if err != nil {
		return gone(err)
	}
	defer i.Close()
	tell, err := look(i)
	if err != nil || tell == nil {
		return gone(wrap(op, at.String(), p.here.note(err)))
	}
	one.Lock()
	defer one.Unlock()
	return tell()
}

// places are all images of the settings' pools and namespaces.
func (p *Provider) places(op string) ([]place, error) {
	var all []place
	for _, pool := range p.here.access.Pools {
		namespaces, err := p.here.namespaces(pool)
		if err != nil {
			return nil, err
		}
		for _, namespace := range namespaces {
			names, err := p.imageNames(pool, namespace)
			if err != nil {
				return nil, wrap(op, pool, p.here.note(err))
			}
			for _, image := range names {
				all = append(all, place{FSID: p.here.fsid, Pool: pool, Namespace: namespace, Image: image})
			}
		}
	}
	return all, nil
}

func (p *Provider) imageNames(pool, namespace string) ([]string, error) {
	io, err := p.here.pool(pool, namespace)
	if err != nil {
		return nil, err
	}
	defer io.Destroy()
	names, err := rbd.GetImageNames(io)
	return names, gone(err)
}

// Volume implements providers.Volumes.
func (p *Provider) Volume(ctx context.Context, volume providers.Handle) (providers.Volume, error) {
	const op = "describe volume"
	at, err := readVolume(op, volume)
	if err != nil {
		return providers.Volume{}, err
	}
	if at.FS != "" {
		return p.folderVolume(ctx, op, at)
	}
	var v providers.Volume
	err = bounded(ctx, op, func(context.Context) error {
		v, err = p.describe(op, at)
		return err
	})
	return v, err
}

// describe is an image as a volume, which it is only when it is complete.
func (p *Provider) describe(op string, at place) (providers.Volume, error) {
	i, err := p.openImage(op, at, reader)
	if err != nil {
		return providers.Volume{}, err
	}
	defer i.Close()
	if i.marks.volume != nil && i.marks.volume.State == deleting {
		return providers.Volume{}, fault.Newf(op, fault.NotFound, i.at.String(), "%s", i.marks.unfinished())
	}
	if why := i.marks.unfinished(); why != "" {
		return providers.Volume{}, fault.Newf(op, fault.Busy, i.at.String(), "%s", why)
	}
	v, err := i.describe()
	if err == nil && v.ChangedBlocks {
		v.Used, err = i.used(uint64(v.Size))
	}
	return v, wrap(op, i.at.String(), i.cluster.note(err))
}

// used is the size of the objects that an image has, by its object map.
func (i *image) used(size uint64) (int64, error) {
	used := int64(0)
	err := i.DiffIterate(rbd.DiffIterateConfig{
		Length: size, IncludeParent: rbd.IncludeParent, WholeObject: rbd.EnableWholeObject,
		Callback: func(_, length uint64, exists int, _ any) int {
			if exists != 0 {
				used += int64(length)
			}
			return 0
		},
	})
	return used, err
}

// DeleteVolume implements providers.Volumes.
func (p *Provider) DeleteVolume(ctx context.Context, volume providers.Handle) error {
	const op = "delete volume"
	at, err := readVolume(op, volume)
	if err != nil {
		return err
	}
	if at.FS != "" {
		return p.deleteFolder(ctx, op, at)
	}
	return bounded(ctx, op, func(ctx context.Context) error {
		c, err := p.cluster(op, at.FSID)
		if err != nil {
			return gone(err)
		}
		if err := c.allowed(op, at); err != nil {
			return err
		}
		return p.exclusive(ctx, op, c, at, at.Image, func(ctx context.Context) error {
			return wrap(op, at.String(), c.deleteImage(ctx, op, at))
		})
	})
}

// deleteImage deletes an image that Muster made and nobody uses. It is marked first: a repeat then knows
// that whoever still has it open is a deletion that was cut off.
func (c *cluster) deleteImage(ctx context.Context, op string, at place) error {
	err := c.insist(ctx, "delete "+at.String(), func() error { return c.doom(ctx, op, at) })
	if fault.Is(err, fault.NotFound) {
		return c.finishDeletion(ctx, at)
	}
	if err != nil {
		return err
	}
	return c.remove(ctx, at)
}

// doom marks an image as being deleted, unless it must not be.
func (c *cluster) doom(ctx context.Context, op string, at place) error {
	i, err := c.open(op, at, writer)
	if err != nil {
		return err
	}
	defer i.Close()
	m := i.marks.volume
	if m == nil && !ownName.MatchString(at.Image) {
		return fault.Newf(op, fault.Denied, at.String(), "Muster did not make this image: delete it with rbd rm if it must go")
	}
	if m == nil {
		m = &mark{Image: i.at.ID}
	}
	if m.State == deleting {
		return nil
	}
	if err := i.free(op); err != nil {
		return err
	}
	m.State = deleting
	return wrap(op, at.String(), i.setMark(ctx, volumeKey, m))
}

// free refuses an image that others use, or that has snapshots.
func (i *image) free(op string) error {
	if err := i.purge(); err != nil {
		return wrap(op, i.at.String(), err)
	}
	snapshots, err := i.GetSnapshotNames()
	if err != nil {
		return wrap(op, i.at.String(), err)
	}
	if len(snapshots) > 0 {
		return fault.Newf(op, fault.Busy, i.at.String(), "it has %d snapshots, %s first: delete them, and flatten what was cloned from them", len(snapshots), snapshots[0].Name)
	}
	others, err := i.cluster.others(i.Image)
	if err != nil {
		return wrap(op, i.at.String(), err)
	}
	if len(others) > 0 && (i.marks.volume == nil || i.marks.volume.State != writing) {
		return fault.Newf(op, fault.Busy, i.at.String(), "clients %v have it open: rbd status %s", others, i.at)
	}
	return nil
}

// finishDeletion completes a deletion that was cut off after the image had lost its name.
func (c *cluster) finishDeletion(ctx context.Context, at place) error {
	if at.ID == "" {
		return nil
	}
	io, err := c.pool(at.Pool, at.Namespace)
	if err != nil {
		return gone(err)
	}
	defer io.Destroy()
	trashed, err := rbd.GetTrashList(io)
	if err != nil && kindOf(err) != fault.NotFound {
		return err
	}
	here := slices.ContainsFunc(trashed, func(t rbd.TrashInfo) bool { return t.Id == at.ID })
	current := c.idOf(io, at.Image)
	if !here && current != at.ID {
		return nil
	}
	if here && !c.doomed(at) {
		return nil // somebody put it there on purpose: it has an end of its own
	}
	return c.remove(ctx, at)
}

// doomed reports whether an image in the trash is there because its deletion was cut off.
func (c *cluster) doomed(at place) bool {
	io, err := c.pool(at.Pool, at.Namespace)
	if err != nil {
		return false
	}
	trashed, err := rbd.OpenImageByIdReadOnly(io, at.ID, rbd.NoSnapshot)
	if err != nil {
		io.Destroy()
		return errors.Is(err, rbd.ErrNotFound) // its header is gone already
	}
	i := &image{Image: trashed, io: io, cluster: c, at: at}
	defer i.Close()
	return i.readMarks() == nil && i.marks.volume != nil && i.marks.volume.State == deleting
}
