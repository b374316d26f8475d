package gluster

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// What Kubernetes, heketi and the CSI driver write on PersistentVolumes.
const (
	provisionedBy   = "pv.kubernetes.io/provisioned-by"
	heketiVolume    = "gluster.kubernetes.io/heketi-volume-id"
	heketiPrefix    = "vol_" // and the ID: heketi's names of volumes
	csiVolume       = "glustervol"
	csiServer       = "glusterserver"
	csiOtherServers = "glusterbkpservers"
)

func (p *pool) isCSI(driver string) bool {
	return driver == csiDriver || slices.Contains(p.settings.Drivers, driver)
}

// Match implements providers.Volumes.
func (p *provider) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	const op = "match volume"
	pool, err := p.ready(op)
	if err != nil {
		return providers.Volume{}, err
	}
	name, ok := pool.volumeOf(pv)
	if !ok {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, nameOf(pv), "its source is neither glusterfs nor the CSI driver %s", csiDriver)
	}
	if !volumeName.MatchString(name) {
		return providers.Volume{}, fault.Newf(op, fault.NotFound, nameOf(pv), "%.80q is no name of a Gluster volume", name)
	}
	v, err := pool.info(ctx, op, name)
	if err != nil {
		return providers.Volume{}, err
	}
	return pool.describe(ctx, op, v, nil)
}

func nameOf(pv *corev1.PersistentVolume) string {
	if pv == nil {
		return ""
	}
	return pv.Name
}

// volumeOf is the volume that a PersistentVolume names. The path of the in-tree source is a volume, and may
// go on with a folder in it; heketi's annotation names the volume when the path does not.
func (p *pool) volumeOf(pv *corev1.PersistentVolume) (name string, ok bool) {
	switch {
	case pv == nil:
		return "", false
	case pv.Spec.Glusterfs != nil:
		name, _ = splitPath(pv.Spec.Glusterfs.Path)
		if id := pv.Annotations[heketiVolume]; name == "" && id != "" {
			name = heketiPrefix + id
		}
		return name, true
	case pv.Spec.CSI != nil && p.isCSI(pv.Spec.CSI.Driver):
		if name = pv.Spec.CSI.VolumeAttributes[csiVolume]; name == "" {
			name = pv.Spec.CSI.VolumeHandle
		}
		return name, true
	}
	return "", false
}

func splitPath(path string) (volume, folder string) {
	volume, folder, _ = strings.Cut(strings.Trim(path, "/"), "/")
	return volume, folder
}

// Bind implements providers.Volumes. A source that is there keeps its kind; a new one is of the kind that the
// annotation of the provisioner names, else in-tree.
func (p *provider) Bind(ctx context.Context, h providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	const op = "bind volume"
	pool, err := p.ready(op)
	if err != nil {
		return nil, err
	}
	if pv == nil {
		return nil, fault.Newf(op, fault.Invalid, "", "no PersistentVolume")
	}
	v, err := p.Volume(ctx, h)
	if err != nil {
		return nil, err
	}
	bound := pv.DeepCopy()
	bound.Spec.NodeAffinity = nil
	if v.Size > 0 {
		if bound.Spec.Capacity == nil {
			bound.Spec.Capacity = corev1.ResourceList{}
		}
		bound.Spec.Capacity[corev1.ResourceStorage] = *resource.NewQuantity(v.Size, resource.BinarySI)
	}
	driver := pv.Annotations[provisionedBy]
	if pv.Spec.CSI != nil && pool.isCSI(pv.Spec.CSI.Driver) {
		driver = pv.Spec.CSI.Driver
	}
	if pv.Spec.Glusterfs == nil && pool.isCSI(driver) {
		bound.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: pool.csiSource(pv.Spec.CSI, driver, v.ID)}
		return bound, nil
	}
	source, err := pool.inTreeSource(op, pv, v.ID)
	if err != nil {
		return nil, err
	}
	bound.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Glusterfs: source}
	if bound.Annotations[heketiVolume] != "" {
		relabel(bound.Annotations, v.ID)
	}
	return bound, nil
}

// relabel keeps heketi's annotation true: a volume of another name is not one of heketi's.
func relabel(annotations map[string]string, volume string) {
	if id, ok := strings.CutPrefix(volume, heketiPrefix); ok && !ours.MatchString(volume) {
		annotations[heketiVolume] = id
		return
	}
	delete(annotations, heketiVolume)
}

func (p *pool) csiSource(old *corev1.CSIPersistentVolumeSource, driver, volume string) *corev1.CSIPersistentVolumeSource {
	source := &corev1.CSIPersistentVolumeSource{}
	if old != nil && p.isCSI(old.Driver) {
		source = old.DeepCopy()
	}
	source.Driver, source.VolumeHandle = driver, volume
	if source.VolumeAttributes == nil {
		source.VolumeAttributes = map[string]string{}
	}
	var others []string
	for _, peer := range p.settings.Peers[1:] {
		others = append(others, peer.Name)
	}
	source.VolumeAttributes[csiVolume] = volume
	source.VolumeAttributes[csiServer] = p.settings.Peers[0].Name
	source.VolumeAttributes[csiOtherServers] = strings.Join(others, ":")
	return source
}

func (p *pool) inTreeSource(op string, pv *corev1.PersistentVolume, volume string) (*corev1.GlusterfsPersistentVolumeSource, error) {
	source := &corev1.GlusterfsPersistentVolumeSource{}
	folder := ""
	if old := pv.Spec.Glusterfs; old != nil {
		source = old.DeepCopy()
		_, folder = splitPath(old.Path)
	}
	source.Path = volume
	if folder != "" {
		source.Path += "/" + folder
	}
	if e := p.settings.Endpoints; e != nil {
		source.EndpointsName, source.EndpointsNamespace = e.Name, nil
		if e.Namespace != "" {
			source.EndpointsNamespace = &e.Namespace
		}
	}
	if source.EndpointsName == "" {
		return nil, fault.Newf(op, fault.Invalid, pv.Name, "it names no endpoints: set endpoints in the provider's settings")
	}
	return source, nil
}
