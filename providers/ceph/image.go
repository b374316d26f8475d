//go:build cgo && ceph

package ceph

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// image is an open one.
type image struct {
	*rbd.Image
	io      *rados.IOContext
	cluster *cluster
	at      place
	shows   moment // the snapshot that is read; zero: none
	marks   marks
}

func (i *image) Close() error {
	defer i.io.Destroy()
	return i.Image.Close()
}

// mode is how an image is opened: a reader is not seen by anybody else, a writer may hold its lock.
type mode bool

const (
	reader mode = false
	writer mode = true
)

// openImage opens the image that a place names; an image of the same name and another ID is not it.
func (p *Provider) openImage(op string, at place, as mode) (*image, error) {
	c, err := p.cluster(op, at.FSID)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(op, at); err != nil {
		return nil, err
	}
	return c.open(op, at, as)
}

func (c *cluster) open(op string, at place, as mode) (*image, error) {
	io, err := c.pool(at.Pool, at.Namespace)
	if err != nil {
		return nil, err
	}
	i := &image{io: io, cluster: c, at: at}
	if as == writer {
		i.Image, err = rbd.OpenImage(io, at.Image, rbd.NoSnapshot)
	} else {
		i.Image, err = rbd.OpenImageReadOnly(io, at.Image, rbd.NoSnapshot)
	}
	if err != nil {
		defer io.Destroy()
		if kindOf(err) == fault.NotFound {
			return nil, fault.New(op, fault.NotFound, at.String(), missing(io, at))
		}
		return nil, wrap(op, at.String(), c.note(err))
	}
	if err := i.look(op); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

// look reads the image's ID and marks.
func (i *image) look(op string) error {
	id, err := i.GetId()
	if err != nil {
		return wrap(op, i.at.String(), i.cluster.note(err))
	}
	if i.at.ID != "" && i.at.ID != id {
		return fault.Newf(op, fault.NotFound, i.at.String(), "the image was deleted, and another one (%s, not %s) was given its name", id, i.at.ID)
	}
	i.at.ID, i.at.FSID = id, i.cluster.fsid
	return wrap(op, i.at.String(), i.cluster.note(i.readMarks()))
}

// missing tells where an image that has no name any more may be.
func missing(io *rados.IOContext, at place) error {
	trashed, err := rbd.GetTrashList(io)
	if err != nil {
		return fmt.Errorf("there is no such image: %w", rbd.ErrNotFound)
	}
	for _, t := range trashed {
		if t.Name != at.Image || at.ID != "" && at.ID != t.Id {
			continue
		}
		spec := at.pool() + "/" + t.Id
		return fmt.Errorf("the image is in the trash since %s and is kept until %s: rbd trash restore %s",
			t.DeletionTime.UTC().Format(time.RFC3339), t.DefermentEndTime.UTC().Format(time.RFC3339), spec)
	}
	return fmt.Errorf("there is no such image: %w", rbd.ErrNotFound)
}

// Names of parameters. metaParameter stands before a key of an image's metadata.
const (
	poolParameter        = "pool"
	namespaceParameter   = "namespace"
	dataPoolParameter    = "dataPool"
	featuresParameter    = "features"
	objectSizeParameter  = "objectSize"
	stripeUnitParameter  = "stripeUnit"
	stripeCountParameter = "stripeCount"
	flattenParameter     = "flatten"
	metaParameter        = "meta."
)

// describe is the image as a volume.
func (i *image) describe() (providers.Volume, error) {
	info, err := i.Stat()
	if err != nil {
		return providers.Volume{}, err
	}
	features, err := i.GetFeatures()
	if err != nil {
		return providers.Volume{}, err
	}
	parameters, err := i.parameters(info.Obj_size, features)
	return providers.Volume{
		Handle: handleOf(i.at), ID: i.at.String(), Content: providers.ContentBlocks, Size: int64(info.Size), Used: -1,
		ChangedBlocks: features&rbd.FeatureFastDiff != 0, Tags: i.marks.tags(), Parameters: parameters,
	}, err
}

// parameters are what makes an image like this one.
func (i *image) parameters(objectSize uint64, features uint64) (map[string]string, error) {
	all := map[string]string{
		poolParameter: i.at.Pool, objectSizeParameter: strconv.FormatUint(objectSize, 10), featuresParameter: featureNames(features),
	}
	if i.at.Namespace != "" {
		all[namespaceParameter] = i.at.Namespace
	}
	for key, value := range i.marks.other {
		all[metaParameter+key] = value
	}
	striping, err := i.striping(objectSize)
	if err != nil {
		return nil, err
	}
	maps.Copy(all, striping)
	if features&rbd.FeatureDataPool == 0 {
		return all, nil
	}
	id, err := i.GetDataPoolID()
	if err != nil {
		return nil, err
	}
	conn, err := i.cluster.connection()
	if err != nil {
		return nil, err
	}
	all[dataPoolParameter], err = conn.GetPoolByID(id)
	return all, err
}

func (i *image) striping(objectSize uint64) (map[string]string, error) {
	unit, err := i.GetStripeUnit()
	if err != nil {
		return nil, err
	}
	count, err := i.GetStripeCount()
	if err != nil || count == 1 && unit == objectSize {
		return nil, err
	}
	return map[string]string{stripeUnitParameter: strconv.FormatUint(unit, 10), stripeCountParameter: strconv.FormatUint(count, 10)}, nil
}

// chosen are the features that a person chooses; the others follow from what is done with an image.
var chosen = []string{
	rbd.FeatureNameLayering, rbd.FeatureNameStripingV2, rbd.FeatureNameExclusiveLock, rbd.FeatureNameObjectMap, rbd.FeatureNameFastDiff,
	rbd.FeatureNameDeepFlatten, rbd.FeatureNameJournaling,
}

// usualFeatures are those of an image whose parameters name none.
const usualFeatures = "layering,exclusive-lock,object-map,fast-diff,deep-flatten"

func featureNames(features uint64) string {
	set := rbd.FeatureSet(features)
	var names []string
	for _, name := range chosen {
		if set&rbd.FeatureSetFromNames([]string{name}) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}
