package aws

import (
	"context"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// inTree is the name that the old source in Kubernetes itself has among drivers.
const inTree = "kubernetes.io/aws-ebs"

// Labels of nodes and volumes that tell zones and regions.
const (
	zoneOfDriver = "topology.ebs.csi.aws.com/zone"
	zoneLabel    = "topology.kubernetes.io/zone"
	regionLabel  = "topology.kubernetes.io/region"
	oldZone      = "failure-domain.beta.kubernetes.io/zone"
	oldRegion    = "failure-domain.beta.kubernetes.io/region"
	provisionedB = "pv.kubernetes.io/provisioned-by"
)

// inTreeID is how the in-tree source names a volume: alone, or with its zone.
var inTreeID = regexp.MustCompile(`^(?:aws://([a-z0-9-]*)/)?(vol-[0-9a-f]+)$`)

// Match implements providers.Volumes.
func (p *provider) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	const op = "match volume"
	if err := p.ready(op); err != nil {
		return providers.Volume{}, err
	}
	text, ours := "", false
	switch {
	case pv.Spec.CSI != nil && slices.Contains(p.drivers(), pv.Spec.CSI.Driver):
		text, ours = pv.Spec.CSI.VolumeHandle, true
	case pv.Spec.AWSElasticBlockStore != nil:
		text, ours = pv.Spec.AWSElasticBlockStore.VolumeID, true
	}
	if !ours {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, pv.Name, "its source is no volume of AWS EBS")
	}
	m := inTreeID.FindStringSubmatch(text)
	if m == nil {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, pv.Name, "%q is no ID of an EBS volume", text)
	}
	v, err := p.describeVolume(ctx, op, p.home, m[2])
	if err != nil {
		return providers.Volume{}, err
	}
	return p.home.volume(v), nil
}

func (p *provider) drivers() []string {
	if len(p.settings.CSIDrivers) == 0 {
		return []string{defaultDriver}
	}
	return append([]string{defaultDriver}, p.settings.CSIDrivers...)
}

// Bind implements providers.Volumes.
func (p *provider) Bind(ctx context.Context, volume providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	const op = "bind volume"
	v, err := p.Volume(ctx, volume)
	if err != nil {
		return nil, err
	}
	id, err := open(op, volume, volumeID)
	if err != nil {
		return nil, err
	}
	bound := pv.DeepCopy()
	bound.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(v.Size, resource.BinarySI)}
	zoneKey := p.setSource(bound, v)
	terms := []corev1.NodeSelectorRequirement{in(zoneKey, v.Zone)}
	if bound.Spec.AWSElasticBlockStore != nil {
		terms = append(terms, in(regionLabel, id.Region))
	}
	bound.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: terms}},
	}}
	relabel(bound, map[string]string{zoneLabel: v.Zone, oldZone: v.Zone, regionLabel: id.Region, oldRegion: id.Region})
	return bound, nil
}

// setSource puts the volume in the place of what was there, and returns the label by which nodes tell their
// zone: the one that pv used, else the driver's.
func (p *provider) setSource(pv *corev1.PersistentVolume, v providers.Volume) string {
	if old := pv.Spec.AWSElasticBlockStore; old != nil || provisioner(pv) == inTree {
		source := corev1.AWSElasticBlockStoreVolumeSource{}
		if old != nil {
			source = *old
		}
		source.VolumeID = "aws://" + v.Zone + "/" + v.ID
		pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{AWSElasticBlockStore: &source}
		return usedKey(pv, zoneLabel)
	}
	source := corev1.CSIPersistentVolumeSource{Driver: p.driverFor(pv)}
	if old := pv.Spec.CSI; old != nil && slices.Contains(p.drivers(), old.Driver) {
		source = *old
	} else if old != nil {
		source.FSType = old.FSType
	}
	source.VolumeHandle = v.ID
	if source.FSType == "" && (pv.Spec.VolumeMode == nil || *pv.Spec.VolumeMode == corev1.PersistentVolumeFilesystem) {
		source.FSType = "ext4" // the driver's own default
	}
	pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &source}
	return usedKey(pv, zoneOfDriver)
}

func provisioner(pv *corev1.PersistentVolume) string { return pv.Annotations[provisionedB] }

func (p *provider) driverFor(pv *corev1.PersistentVolume) string {
	if driver := provisioner(pv); slices.Contains(p.drivers(), driver) {
		return driver
	}
	if len(p.settings.CSIDrivers) > 0 {
		return p.settings.CSIDrivers[0]
	}
	return defaultDriver
}

// usedKey is the zone label in pv's node affinity.
func usedKey(pv *corev1.PersistentVolume, otherwise string) string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return otherwise
	}
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, expression := range term.MatchExpressions {
			if slices.Contains([]string{zoneOfDriver, zoneLabel, oldZone}, expression.Key) {
				return expression.Key
			}
		}
	}
	return otherwise
}

func in(key, value string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}
}

// relabel changes labels that are there: the scheduler goes by them too.
func relabel(pv *corev1.PersistentVolume, labels map[string]string) {
	for key, value := range labels {
		if _, ok := pv.Labels[key]; ok {
			pv.Labels[key] = value
		}
	}
}
