//go:build cgo && ceph

package ceph

import (
	"context"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// The sources of PersistentVolumes before CSI.
const (
	inTreeRBD    = "kubernetes.io/rbd"
	inTreeCephFS = "kubernetes.io/cephfs"
)

// provisionedBy is the annotation that names a PersistentVolume's driver.
const provisionedBy = "pv.kubernetes.io/provisioned-by"

// Attributes of ceph-csi's volumes.
const (
	attrCluster   = "clusterID"
	attrPool      = "pool"
	attrImage     = "imageName"
	attrFeatures  = "imageFeatures"
	attrStatic    = "staticVolume"
	attrNamespace = "radosNamespace"
	attrFS        = "fsName"
	attrRoot      = "rootPath"
	attrSubvolume = "subvolumePath"
)

// Match implements providers.Volumes.
func (p *Provider) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	const op = "match volume"
	if pv == nil {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, "", "no PersistentVolume")
	}
	if p.here == nil {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, name, "the provider was not configured")
	}
	var v providers.Volume
	err := bounded(ctx, op, func(ctx context.Context) error {
		at, err := p.behind(op, pv)
		if err != nil {
			return err
		}
		if at.FS != "" {
			v, err = p.folderVolume(ctx, op, at)
			return err
		}
		v, err = p.describe(op, at)
		return err
	})
	return v, err
}

// behind is the place that a PersistentVolume names.
func (p *Provider) behind(op string, pv *corev1.PersistentVolume) (place, error) {
	s := pv.Spec
	foreign := func(format string, args ...any) (place, error) {
		return place{}, fault.Newf(op, fault.Unsupported, pv.Name, format, args...)
	}
	switch {
	case s.RBD != nil:
		pool := s.RBD.RBDPool
		if pool == "" {
			pool = "rbd" // the default of the in-tree driver
		}
		return p.known(op, pv.Name, place{FSID: p.here.fsid, Pool: pool, Image: s.RBD.RBDImage})
	case s.CephFS != nil:
		if len(p.settings.Filesystems) == 0 {
			return foreign("the settings name no filesystems")
		}
		return place{FSID: p.here.fsid, FS: p.settings.Filesystems[0], Path: clean(s.CephFS.Path)}, nil
	case s.CSI == nil:
		return foreign("its source is neither a CSI driver nor RBD or CephFS")
	}
	id, err := parseCSI(s.CSI.VolumeHandle)
	attributes := s.CSI.VolumeAttributes
	cluster := attributes[attrCluster]
	if cluster == "" && err == nil {
		cluster = id.cluster
	}
	if _, ours := p.settings.ClusterIDs[cluster]; !ours && len(p.settings.ClusterIDs) > 0 {
		return foreign("its clusterID is %q, and the settings' clusterIDs name others", cluster)
	}
	switch {
	case slices.Contains(p.settings.Drivers.RBD, s.CSI.Driver):
		return p.csiImage(op, pv, id, cluster)
	case slices.Contains(p.settings.Drivers.CephFS, s.CSI.Driver):
		return p.csiFolder(op, pv)
	}
	return foreign("its driver %s is none of %v", s.CSI.Driver, append(slices.Clone(p.settings.Drivers.RBD), p.settings.Drivers.CephFS...))
}

// known refuses pools that the settings don't name: they are not this backend's.
func (p *Provider) known(op, pv string, at place) (place, error) {
	if !slices.Contains(p.settings.Pools, at.Pool) {
		return at, fault.Newf(op, fault.Unsupported, pv, "its pool is %q, and the settings' pools are %q", at.Pool, p.settings.Pools)
	}
	return at, nil
}

// csiImage finds the image of a volume of ceph-csi: its attributes name it; of old volumes ceph-csi's own
// records in the pool do.
func (p *Provider) csiImage(op string, pv *corev1.PersistentVolume, id csiID, cluster string) (place, error) {
	attributes := pv.Spec.CSI.VolumeAttributes
	at := place{FSID: p.here.fsid, Pool: attributes[attrPool], Namespace: p.settings.ClusterIDs[cluster], Image: attributes[attrImage]}
	if namespace := attributes[attrNamespace]; namespace != "" {
		at.Namespace = namespace
	}
	if attributes[attrStatic] == "true" {
		at.Image = pv.Spec.CSI.VolumeHandle
	}
	if at.Pool == "" && id.uuid != "" {
		conn, err := p.here.connection()
		if err != nil {
			return at, err
		}
		if at.Pool, err = conn.GetPoolByID(id.pool); err != nil {
			return at, wrap(op, pv.Name, p.here.note(err))
		}
	}
	at, err := p.known(op, pv.Name, at)
	if err != nil || at.Image != "" {
		return at, err
	}
	if id.uuid == "" {
		return at, fault.Newf(op, fault.Invalid, pv.Name, "neither its handle nor its attributes name an image")
	}
	at.Image, err = p.journaled(at, id.uuid)
	return at, wrap(op, pv.Name, p.here.note(err))
}

// journaled asks ceph-csi's records for an image's name.
func (p *Provider) journaled(at place, uuid string) (string, error) {
	io, err := p.here.pool(at.Pool, at.Namespace)
	if err != nil {
		return "", err
	}
	defer io.Destroy()
	const key = "csi.imagename"
	values, err := io.GetOmapValues("csi.volume."+uuid, "", key, 1)
	if gone(err) != nil {
		return "", err
	}
	if image := string(values[key]); image != "" {
		return image, nil
	}
	return "csi-vol-" + uuid, nil
}

// csiFolder finds the folder of a volume of ceph-csi.
func (p *Provider) csiFolder(op string, pv *corev1.PersistentVolume) (place, error) {
	attributes := pv.Spec.CSI.VolumeAttributes
	at := place{FSID: p.here.fsid, FS: attributes[attrFS], Path: attributes[attrSubvolume]}
	if at.Path == "" {
		at.Path = attributes[attrRoot]
	}
	if at.FS == "" && len(p.settings.Filesystems) > 0 {
		at.FS = p.settings.Filesystems[0]
	}
	if !slices.Contains(p.settings.Filesystems, at.FS) {
		return at, fault.Newf(op, fault.Unsupported, pv.Name, "its filesystem is %q, and the settings' filesystems are %q", at.FS, p.settings.Filesystems)
	}
	if at.Path == "" {
		return at, fault.Newf(op, fault.Invalid, pv.Name, "its attributes have neither %s nor %s", attrSubvolume, attrRoot)
	}
	at.Path = clean(at.Path)
	return at, nil
}

func clean(folder string) string { return path.Clean("/" + folder) }

// Bind implements providers.Volumes. The volume becomes a static one in ceph-csi's words: it needs no records
// of the driver, which a rebuilt cluster doesn't have.
func (p *Provider) Bind(ctx context.Context, volume providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	const op = "bind volume"
	if pv == nil {
		return nil, fault.Newf(op, fault.Invalid, "", "no PersistentVolume")
	}
	v, err := p.Volume(ctx, volume)
	if err != nil {
		return nil, err
	}
	at, err := readVolume(op, v.Handle)
	if err != nil {
		return nil, err
	}
	bound := pv.DeepCopy()
	bound.Spec.PersistentVolumeSource = p.source(bound, at, v)
	bound.Spec.NodeAffinity = nil // Ceph is everywhere
	if v.Size > 0 {
		if bound.Spec.Capacity == nil {
			bound.Spec.Capacity = corev1.ResourceList{}
		}
		bound.Spec.Capacity[corev1.ResourceStorage] = *resource.NewQuantity(v.Size, resource.BinarySI)
	}
	return bound, nil
}

func (p *Provider) source(pv *corev1.PersistentVolume, at place, v providers.Volume) corev1.PersistentVolumeSource {
	old := pv.Spec.PersistentVolumeSource
	driver := pv.Annotations[provisionedBy]
	switch {
	case at.FS == "" && (old.RBD != nil || driver == inTreeRBD) && at.Namespace == "":
		return corev1.PersistentVolumeSource{RBD: p.inTreeImage(old.RBD, at)}
	case at.FS != "" && (old.CephFS != nil || driver == inTreeCephFS):
		return corev1.PersistentVolumeSource{CephFS: p.inTreeFolder(old.CephFS, at)}
	}
	drivers := p.settings.Drivers.RBD
	if at.FS != "" {
		drivers = p.settings.Drivers.CephFS
	}
	source := &corev1.CSIPersistentVolumeSource{Driver: drivers[0]}
	if slices.Contains(drivers, driver) {
		source.Driver = driver
	}
	if old.CSI != nil && slices.Contains(drivers, old.CSI.Driver) {
		source = old.CSI
	}
	source.VolumeAttributes = p.attributes(source.VolumeAttributes[attrCluster], at, v)
	source.VolumeHandle = at.Image
	if at.FS != "" {
		source.VolumeHandle = strings.Trim(strings.ReplaceAll(at.Path, "/", "-"), "-")
	}
	return corev1.PersistentVolumeSource{CSI: source}
}

func (p *Provider) attributes(cluster string, at place, v providers.Volume) map[string]string {
	all := map[string]string{attrCluster: p.clusterID(cluster, at.Namespace), attrStatic: "true"}
	if at.FS != "" {
		all[attrFS], all[attrRoot] = at.FS, at.Path
		return all
	}
	all[attrPool], all[attrFeatures] = at.Pool, v.Parameters[featuresParameter]
	if at.Namespace != "" {
		all[attrNamespace] = at.Namespace
	}
	return all
}

// clusterID is ceph-csi's name for this cluster and a namespace: the one that the volume had if it fits, one
// of the settings, or the FSID.
func (p *Provider) clusterID(had, namespace string) string {
	if known, there := p.settings.ClusterIDs[had]; there && known == namespace || had != "" && len(p.settings.ClusterIDs) == 0 {
		return had
	}
	best := ""
	for id, of := range p.settings.ClusterIDs {
		if of == namespace && (best == "" || id < best) {
			best = id
		}
	}
	if best == "" {
		return p.here.fsid
	}
	return best
}

func (p *Provider) inTreeImage(old *corev1.RBDPersistentVolumeSource, at place) *corev1.RBDPersistentVolumeSource {
	source := &corev1.RBDPersistentVolumeSource{RadosUser: p.settings.User, CephMonitors: p.monitors()}
	if old != nil {
		source = old
	}
	source.RBDPool, source.RBDImage = at.Pool, at.Image
	return source
}

func (p *Provider) inTreeFolder(old *corev1.CephFSPersistentVolumeSource, at place) *corev1.CephFSPersistentVolumeSource {
	source := &corev1.CephFSPersistentVolumeSource{User: p.settings.User, Monitors: p.monitors()}
	if old != nil {
		source = old
	}
	source.Path = at.Path
	return source
}

// monitors are those that the settings or the cluster's configuration name.
func (p *Provider) monitors() []string {
	if len(p.settings.MonHosts) > 0 {
		return p.settings.MonHosts
	}
	conn, err := p.here.connection()
	if err != nil {
		return nil
	}
	hosts, err := conn.GetConfigOption("mon_host")
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(hosts, func(r rune) bool { return r == ',' || r == ' ' })
}
