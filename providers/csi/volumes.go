package csi

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const zoneLabel = "topology.kubernetes.io/zone"

// The parameters of volumes. fsType comes with the storage class and is told for people.
const (
	parameterClass  = "storageClass"
	parameterMode   = "volumeMode"
	parameterAccess = "accessModes"
	parameterFS     = "fsType"
)

// inventory is what the cluster knows of CSI volumes at one moment.
type inventory struct {
	views    map[string][]*corev1.PersistentVolume // by volume ID
	machines map[string]string                     // node by PersistentVolume
	cbt      map[string]bool                       // drivers with a SnapshotMetadata service
}

// look reads the cluster's PersistentVolumes; with details also where they are attached.
func (p *Provider) look(ctx context.Context, op string, details bool) (inventory, error) {
	all := inventory{views: map[string][]*corev1.PersistentVolume{}, machines: map[string]string{}}
	err := eachPage(ctx, p.kube.CoreV1().PersistentVolumes().List, func(list *corev1.PersistentVolumeList) error {
		for i := range list.Items {
			pv := &list.Items[i]
			if pv.Spec.CSI != nil && p.serves(pv.Spec.CSI.Driver) {
				id := volumeID(pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle)
				all.views[id] = append(all.views[id], pv)
			}
		}
		return nil
	})
	if err != nil {
		return all, wrap(op, "PersistentVolumes", err)
	}
	if !details {
		return all, nil
	}
	err = eachPage(ctx, p.kube.StorageV1().VolumeAttachments().List, func(list *storagev1.VolumeAttachmentList) error {
		for _, attachment := range list.Items {
			if name := attachment.Spec.Source.PersistentVolumeName; name != nil && attachment.Status.Attached {
				all.machines[*name] = attachment.Spec.NodeName
			}
		}
		return nil
	})
	if err != nil {
		return all, wrap(op, "VolumeAttachments", err)
	}
	all.cbt, err = p.metadataDrivers(ctx, op)
	return all, err
}

// eachPage lists in pages.
func eachPage[L interface{ GetContinue() string }](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), each func(L) error) error {
	options := metav1.ListOptions{Limit: 500}
	for {
		page, err := list(ctx, options)
		if err != nil {
			return err
		}
		if err := each(page); err != nil {
			return err
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// best is the view that tells most: the one a claim of somebody else holds, then the record, then any.
func best(views []*corev1.PersistentVolume) *corev1.PersistentVolume {
	rank := func(pv *corev1.PersistentVolume) int {
		switch kind := pv.Labels[labelKind]; {
		case pv.DeletionTimestamp != nil:
			return 3
		case kind == kindAlias:
			return 2
		case kind == kindVolume:
			return 1
		}
		return 0
	}
	return slices.MinFunc(views, func(a, b *corev1.PersistentVolume) int { return rank(a) - rank(b) })
}

// recordView is the record among the views, if Muster made the volume.
func recordView(views []*corev1.PersistentVolume) *corev1.PersistentVolume {
	for _, pv := range views {
		if pv.Labels[labelKind] == kindVolume {
			return pv
		}
	}
	return nil
}

// temporary tells volumes that a mover reads, and clones that are being made, from volumes.
func (p *Provider) temporary(views []*corev1.PersistentVolume) bool {
	return !slices.ContainsFunc(views, func(pv *corev1.PersistentVolume) bool {
		if pv.Labels[labelKind] == kindVolume {
			r, _ := recordOf(pv)
			return !r.Incomplete
		}
		return pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Namespace != p.settings.Namespace
	})
}

// Discover implements providers.Volumes.
func (p *Provider) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	const op = "discover volumes"
	if err := p.ready(op); err != nil {
		return err
	}
	all, err := p.look(ctx, op, true)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(all.views)) {
		if p.temporary(all.views[id]) || len(query.IDs) > 0 && !slices.Contains(query.IDs, id) {
			continue
		}
		volume, err := p.describe(op, all, id)
		if err != nil {
			return err
		}
		if query.Machine != "" && volume.Machine != query.Machine || !matches(volume.Tags, query.Tags) {
			continue
		}
		if err := each(volume); err != nil {
			return err
		}
	}
	return nil
}

// describe tells what the cluster knows of one volume.
func (p *Provider) describe(op string, all inventory, id string) (providers.Volume, error) {
	views := all.views[id]
	if len(views) == 0 {
		return providers.Volume{}, fault.Newf(op, fault.NotFound, id, "no PersistentVolume of the cluster is this volume")
	}
	pv := best(views)
	state := stateOf(pv)
	handle, err := encodeHandle(op, state)
	if err != nil {
		return providers.Volume{}, err
	}
	volume := providers.Volume{
		Handle: handle, ID: id, Content: p.contentOf(state), Size: state.Size, Used: -1, Zone: zoneOf(pv),
		Tags: map[string]string{}, Parameters: parametersOf(state),
	}
	for _, view := range views {
		if machine := all.machines[view.Name]; machine != "" {
			volume.Machine = machine
		}
	}
	volume.ChangedBlocks = volume.Content == providers.ContentBlocks && all.cbt[state.Source.Driver]
	for key, value := range pv.Labels {
		volume.Tags[key] = value
	}
	if own := recordView(views); own != nil {
		r, _ := recordOf(own)
		maps.Copy(volume.Tags, r.Tags)
	}
	return volume, nil
}

func stateOf(pv *corev1.PersistentVolume) volumeState {
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	state := volumeState{
		Source: *pv.Spec.CSI, Mode: corev1.PersistentVolumeFilesystem, AccessModes: pv.Spec.AccessModes,
		Size: capacity.Value(), Class: pv.Spec.StorageClassName, Affinity: pv.Spec.NodeAffinity,
	}
	if pv.Spec.VolumeMode != nil {
		state.Mode = *pv.Spec.VolumeMode
	}
	return state
}

// contentOf decides how a volume's data is read. A filesystem on a device is read as the device; what
// several nodes mount at once, or a driver of files has, is no device.
func (p *Provider) contentOf(v volumeState) providers.Content {
	if v.Mode == corev1.PersistentVolumeBlock {
		return providers.ContentBlocks
	}
	if slices.Contains(p.settings.FileDrivers, v.Source.Driver) || slices.Contains(v.AccessModes, corev1.ReadWriteMany) {
		return providers.ContentFiles
	}
	return providers.ContentBlocks
}

func parametersOf(v volumeState) map[string]string {
	out := map[string]string{parameterMode: string(v.Mode)}
	if v.Class != "" {
		out[parameterClass] = v.Class
	}
	if v.Source.FSType != "" {
		out[parameterFS] = v.Source.FSType
	}
	var modes []string
	for _, mode := range v.AccessModes {
		modes = append(modes, string(mode))
	}
	if len(modes) > 0 {
		out[parameterAccess] = strings.Join(modes, ",")
	}
	return out
}

func zoneOf(pv *corev1.PersistentVolume) string {
	if zone := pv.Labels[zoneLabel]; zone != "" {
		return zone
	}
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return ""
	}
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if strings.HasSuffix(e.Key, "/zone") && len(e.Values) > 0 {
				return e.Values[0]
			}
		}
	}
	return ""
}

// Volume implements providers.Volumes.
func (p *Provider) Volume(ctx context.Context, handle providers.Handle) (providers.Volume, error) {
	const op = "describe volume"
	if err := p.ready(op); err != nil {
		return providers.Volume{}, err
	}
	state, err := decodeVolume(op, handle)
	if err != nil {
		return providers.Volume{}, err
	}
	return p.volume(ctx, op, state.id())
}

func (p *Provider) volume(ctx context.Context, op, id string) (providers.Volume, error) {
	all, err := p.look(ctx, op, true)
	if err != nil {
		return providers.Volume{}, err
	}
	return p.describe(op, all, id)
}

// Match implements providers.Volumes. It needs no name: the volume handle is the volume.
func (p *Provider) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	const op = "match volume"
	if err := p.ready(op); err != nil {
		return providers.Volume{}, err
	}
	if pv == nil || pv.Spec.CSI == nil {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, nameOfPV(pv), "it is not a CSI volume")
	}
	if !p.serves(pv.Spec.CSI.Driver) {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, pv.Name, "its driver %s is not among the drivers of the settings", pv.Spec.CSI.Driver)
	}
	return p.volume(ctx, op, volumeID(pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle))
}

func nameOfPV(pv *corev1.PersistentVolume) string {
	if pv == nil {
		return ""
	}
	return pv.Name
}

// Bind implements providers.Volumes.
func (p *Provider) Bind(ctx context.Context, handle providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	const op = "bind volume"
	if err := p.ready(op); err != nil {
		return nil, err
	}
	state, err := decodeVolume(op, handle)
	if err != nil {
		return nil, err
	}
	if pv == nil {
		return nil, fault.Newf(op, fault.Invalid, state.id(), "there is no PersistentVolume to bind it to")
	}
	volume, err := p.volume(ctx, op, state.id())
	if err != nil {
		return nil, err
	}
	if state, err = decodeVolume(op, volume.Handle); err != nil {
		return nil, err
	}
	out := pv.DeepCopy()
	source := state.Source.DeepCopy()
	if old := pv.Spec.CSI; old != nil && p.serves(old.Driver) {
		source = keepOwn(old, source)
	}
	out.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: source}
	out.Spec.NodeAffinity = state.Affinity
	if out.Spec.Capacity == nil {
		out.Spec.Capacity = corev1.ResourceList{}
	}
	out.Spec.Capacity[corev1.ResourceStorage] = quantity(state.Size)
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	out.Annotations["pv.kubernetes.io/provisioned-by"] = source.Driver
	return out, nil
}

// keepOwn is the new volume with what the old source said about how to use it.
func keepOwn(old, volume *corev1.CSIPersistentVolumeSource) *corev1.CSIPersistentVolumeSource {
	kept := old.DeepCopy()
	kept.VolumeHandle, kept.VolumeAttributes = volume.VolumeHandle, volume.VolumeAttributes
	if kept.FSType == "" {
		kept.FSType = volume.FSType
	}
	return kept
}
