//go:build cgo && ceph

package ceph

import (
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers/fault"
)

// group is a group of images that was made for one snapshot of them all. librbd holds the exclusive locks of
// all images while it takes it, so that no write falls between.
type group struct {
	Pool      string  `json:"pool"`
	Namespace string  `json:"ns,omitempty"`
	Name      string  `json:"name"` // of the group and of its snapshot
	Images    []place `json:"images"`
}

// companion is the name of a snapshot that is taken right before a group's. librbd of Ceph 16 can't compare
// with the snapshot of a group, but with this one: what has changed since the group's snapshot has also
// changed since this one.
func companion(snap string) string { return snap + "-before" }

// groupable says why images can't be snapshotted at one instant; empty when they can.
func groupable(images []*image) string {
	first := images[0]
	for _, i := range images {
		features, err := i.GetFeatures()
		if err != nil {
			return err.Error()
		}
		if features&rbd.FeatureExclusiveLock == 0 {
			return i.at.String() + " has no exclusive lock: rbd feature enable " + i.at.String() + " exclusive-lock"
		}
		if i.at.FSID != first.at.FSID || i.at.Namespace != first.at.Namespace {
			return i.at.String() + " is in another cluster or namespace than " + first.at.String()
		}
		if in, err := i.GetGroup(); err == nil && in.Name != "" {
			return i.at.String() + " is in the group " + in.Name + " of somebody else, and an image can only be in one"
		}
	}
	return ""
}

// takeGroup takes a snapshot of all images at one instant. The group stays, empty, as long as its snapshot:
// the images are free for other groups.
func (c *cluster) takeGroup(g group, images []*image) error {
	io, err := c.pool(g.Pool, g.Namespace)
	if err != nil {
		return err
	}
	defer io.Destroy()
	for _, i := range images {
		if _, err := i.CreateSnapshot(companion(g.Name)); err != nil {
			return err
		}
	}
	if err := rbd.GroupCreate(io, g.Name); err != nil {
		return err
	}
	for _, i := range images {
		if err := rbd.GroupImageAdd(io, g.Name, i.io, i.at.Image); err != nil {
			return err
		}
	}
	if err := rbd.GroupSnapCreate(io, g.Name, g.Name); err != nil {
		return err
	}
	return release(io, g, images)
}

// release takes the images out of the group; its snapshot stays.
func release(io *rados.IOContext, g group, images []*image) error {
	for _, i := range images {
		if err := gone(rbd.GroupImageRemove(io, g.Name, i.io, i.at.Image)); err != nil {
			return err
		}
	}
	return nil
}

// inGroup reports whether a snapshot is the one of a group with that name.
func (i *image) inGroup(s snapshotInfo, name string) bool {
	if !s.grouped || s.trashed {
		return false
	}
	in, err := i.GetSnapGroupNamespace(s.Id)
	return err == nil && in.GroupName == name && in.GroupSnapName == name
}

// disband removes a group when none of its images has its snapshot any more.
func (c *cluster) disband(g group) error {
	for _, at := range g.Images {
		left, err := c.holdsGroup(at, g.Name)
		if err != nil || left {
			return err
		}
	}
	io, err := c.pool(g.Pool, g.Namespace)
	if err != nil {
		return gone(err)
	}
	defer io.Destroy()
	if err := gone(rbd.GroupSnapRemove(io, g.Name, g.Name)); err != nil {
		return err
	}
	return gone(rbd.GroupRemove(io, g.Name))
}

func (c *cluster) holdsGroup(at place, name string) (bool, error) {
	i, err := c.open("look for a group's snapshot", at, reader)
	if err != nil {
		return false, gone(err)
	}
	defer i.Close()
	all, err := i.snapshotsOf()
	if err != nil {
		return false, err
	}
	for _, s := range all {
		if i.inGroup(s, name) {
			return true, nil
		}
	}
	return false, nil
}

// unmake removes what a cut-off takeGroup left on an image.
func (c *cluster) unmake(g group, images []*image) error {
	io, err := c.pool(g.Pool, g.Namespace)
	if err != nil {
		return err
	}
	defer io.Destroy()
	if err := gone(rbd.GroupSnapRemove(io, g.Name, g.Name)); err != nil && kindOf(err) != fault.Invalid {
		return err
	}
	if err := release(io, g, images); err != nil && kindOf(err) != fault.Invalid {
		return err
	}
	return gone(rbd.GroupRemove(io, g.Name))
}
