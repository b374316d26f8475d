package mem

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Match implements providers.Provider.
func (p *provider) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	const op = "match volume"
	b, err := p.ready(op)
	if err != nil {
		return providers.Volume{}, err
	}
	if pv == nil || pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Driver {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, nameOf(pv), "its source is not the CSI driver %s", Driver)
	}
	return b.lookUp(ctx, op, pv.Spec.CSI.VolumeHandle)
}

func nameOf(pv *corev1.PersistentVolume) string {
	if pv == nil {
		return ""
	}
	return pv.Name
}

// Bind implements providers.Provider.
func (p *provider) Bind(ctx context.Context, h providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	const op = "bind volume"
	if pv == nil {
		return nil, fault.Newf(op, fault.Invalid, "", "no PersistentVolume")
	}
	v, err := p.Volume(ctx, h)
	if err != nil {
		return nil, err
	}
	bound := pv.DeepCopy()
	source := &corev1.CSIPersistentVolumeSource{Driver: Driver}
	if old := bound.Spec.CSI; old != nil && old.Driver == Driver {
		source = old
	}
	source.VolumeHandle = v.ID
	bound.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: source}
	bound.Spec.NodeAffinity = affinity(v.Zone)
	if v.Size > 0 {
		if bound.Spec.Capacity == nil {
			bound.Spec.Capacity = corev1.ResourceList{}
		}
		bound.Spec.Capacity[corev1.ResourceStorage] = *resource.NewQuantity(v.Size, resource.BinarySI)
	}
	return bound, nil
}

// affinity keeps pods in the volume's zone.
func affinity(zone string) *corev1.VolumeNodeAffinity {
	if zone == "" {
		return nil
	}
	in := corev1.NodeSelectorRequirement{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{in}}},
	}}
}
