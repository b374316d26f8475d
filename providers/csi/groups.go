package csi

import (
	"context"
	"slices"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/musterdr/muster/providers/fault"
)

const groupAPI = "groupsnapshot.storage.k8s.io"

// groupVersions are those whose fields this package reads alike, newest first.
func groupVersions() []string { return []string{"v1", "v1beta2", "v1beta1"} }

// served is the best of some versions of an API group that the cluster serves; empty when it serves none.
func (p *Provider) served(op, group string, versions []string) (string, error) {
	for _, version := range versions {
		_, err := p.kube.Discovery().ServerResourcesForGroupVersion(group + "/" + version)
		if err == nil {
			return version, nil
		}
		if !apierrors.IsNotFound(err) {
			return "", wrap(op, group, err)
		}
	}
	return "", nil
}

// groupAPIs are the clients of group snapshots.
type groupAPIs struct {
	version                   string
	groups, contents, classes dynamic.NamespaceableResourceInterface
}

func (p *Provider) groupAPIs(op string) (groupAPIs, error) {
	version, err := p.served(op, groupAPI, groupVersions())
	if err != nil {
		return groupAPIs{}, err
	}
	if version == "" {
		return groupAPIs{}, fault.Newf(op, fault.Unsupported, groupAPI, "the cluster has no group snapshots: install the CRDs of %s, and snapshot controller and sidecars with CSIVolumeGroupSnapshot", groupAPI)
	}
	of := func(resource string) dynamic.NamespaceableResourceInterface {
		return p.dynamic.Resource(schema.GroupVersionResource{Group: groupAPI, Version: version, Resource: resource})
	}
	return groupAPIs{version, of("volumegroupsnapshots"), of("volumegroupsnapshotcontents"), of("volumegroupsnapshotclasses")}, nil
}

// untyped makes a dynamic client one that await takes.
type untyped struct{ dynamic.ResourceInterface }

func (u untyped) Get(ctx context.Context, name string, options metav1.GetOptions) (*unstructured.Unstructured, error) {
	return u.ResourceInterface.Get(ctx, name, options)
}

// takeGroup takes the snapshots by one VolumeGroupSnapshot. Unsupported says why the volumes make no group.
func (p *Provider) takeGroup(ctx context.Context, op string, members []member) ([]*snapshotv1.VolumeSnapshotContent, error) {
	first := members[0]
	for _, m := range members[1:] {
		if m.volume.Source.Driver != first.volume.Source.Driver {
			return nil, fault.Newf(op, fault.Unsupported, m.volume.id(), "the volumes are of different drivers: there is no instant that they share")
		}
		if m.claim.namespace != first.claim.namespace {
			return nil, fault.Newf(op, fault.Unsupported, m.volume.id(), "the claims are in different namespaces: a group snapshot has one")
		}
	}
	apis, err := p.groupAPIs(op)
	if err != nil {
		return nil, err
	}
	class, err := p.groupClass(ctx, op, apis, first.volume.Source.Driver)
	if err != nil {
		return nil, err
	}
	group := nameOf(kindGroup, first.record.Token)
	for i := range members {
		members[i].record.Group = group
		members[i].record.Namespace = first.claim.namespace
	}
	defer func() { _ = p.markClaims(context.WithoutCancel(ctx), op, members, nil) }() // a label too many harms nobody
	if err := p.markClaims(ctx, op, members, &group); err != nil {
		return nil, err
	}
	if err := p.askGroup(ctx, op, apis, group, class, first); err != nil {
		return nil, err
	}
	return p.awaitGroup(ctx, op, apis, group, members)
}

// markClaims puts the label on the claims by which the group finds them, or takes it off.
func (p *Provider) markClaims(ctx context.Context, op string, members []member, group *string) error {
	for _, m := range members {
		patch := mergePatch(map[string]any{"metadata": map[string]any{"labels": map[string]*string{labelGroup: group}}})
		_, err := p.kube.CoreV1().PersistentVolumeClaims(m.claim.namespace).Patch(ctx, m.claim.name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return wrap(op, m.claim.namespace+"/"+m.claim.name, err)
		}
	}
	return nil
}

func (p *Provider) groupClass(ctx context.Context, op string, apis groupAPIs, driver string) (string, error) {
	list, err := apis.classes.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", wrap(op, "VolumeGroupSnapshotClasses", err)
	}
	wanted := p.settings.GroupClasses[driver]
	var own []string
	for _, class := range list.Items {
		if of, _, _ := unstructured.NestedString(class.Object, "driver"); of != driver {
			continue
		}
		if class.GetName() == wanted || wanted == "" && class.GetAnnotations()["groupsnapshot.storage.kubernetes.io/is-default-class"] == "true" {
			return class.GetName(), nil
		}
		own = append(own, class.GetName())
	}
	if wanted == "" && len(own) == 1 {
		return own[0], nil
	}
	return "", fault.Newf(op, fault.Unsupported, driver, "the driver has no VolumeGroupSnapshotClass that is its default or its only one: make one if the driver can take groups")
}

func (p *Provider) askGroup(ctx context.Context, op string, apis groupAPIs, name, class string, first member) error {
	labels := map[string]any{}
	for key, value := range labelsOf(kindGroup, first.record.Token) {
		labels[key] = value
	}
	group := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": groupAPI + "/" + apis.version, "kind": "VolumeGroupSnapshot",
		"metadata": map[string]any{"name": name, "labels": labels, "annotations": map[string]any{annotationRecord: first.record.encode()}},
		"spec": map[string]any{
			"volumeGroupSnapshotClassName": class,
			"source":                       map[string]any{"selector": map[string]any{"matchLabels": map[string]any{labelGroup: name}}},
		},
	}}
	_, err := apis.groups.Namespace(first.claim.namespace).Create(ctx, group, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return wrap(op, first.claim.namespace+"/"+name, err)
}

// awaitGroup waits for the group, keeps it, and gives each member its record.
func (p *Provider) awaitGroup(ctx context.Context, op string, apis groupAPIs, name string, members []member) ([]*snapshotv1.VolumeSnapshotContent, error) {
	namespace := members[0].claim.namespace
	var problem string
	w := wait{op: op, subject: namespace + "/" + name, within: p.settings.SnapshotTimeout, why: func(context.Context) string {
		if problem == "" {
			return "the VolumeGroupSnapshot does not get ready: do the snapshot controller and the driver's sidecar have CSIVolumeGroupSnapshot?"
		}
		return problem
	}}
	failed := func(g *unstructured.Unstructured) error {
		problem, _, _ = unstructured.NestedString(g.Object, "status", "error", "message")
		return lastingProblem(op, w.subject, problem)
	}
	bound, err := await(ctx, w, objects[*unstructured.Unstructured](untyped{apis.groups.Namespace(namespace)}), name, func(g *unstructured.Unstructured) (bool, error) {
		content, _, _ := unstructured.NestedString(g.Object, "status", "boundVolumeGroupSnapshotContentName")
		return content != "", failed(g)
	})
	if err != nil {
		return nil, err
	}
	content, _, _ := unstructured.NestedString(bound.Object, "status", "boundVolumeGroupSnapshotContentName")
	if err := p.setGroupPolicy(ctx, op, apis, content, snapshotv1.VolumeSnapshotContentRetain); err != nil {
		return nil, err
	}
	ready, err := await(ctx, w, objects[*unstructured.Unstructured](untyped{apis.groups.Namespace(namespace)}), name, func(g *unstructured.Unstructured) (bool, error) {
		done, _, _ := unstructured.NestedBool(g.Object, "status", "readyToUse")
		return done, failed(g)
	})
	if err != nil {
		return nil, err
	}
	return p.groupMembers(ctx, w, ready.GetUID(), members, &problem)
}

func (p *Provider) setGroupPolicy(ctx context.Context, op string, apis groupAPIs, content string, policy snapshotv1.DeletionPolicy) error {
	metadata := map[string]any{}
	if policy == snapshotv1.VolumeSnapshotContentDelete {
		metadata = map[string]any{"annotations": map[string]string{groupBeingDeleted: "yes"}}
	}
	patch := mergePatch(map[string]any{"metadata": metadata, "spec": map[string]any{"deletionPolicy": policy}})
	_, err := apis.contents.Patch(ctx, content, types.MergePatchType, patch, metav1.PatchOptions{})
	return wrap(op, content, err)
}

// groupMembers finds the contents of a ready group by their volumes.
func (p *Provider) groupMembers(ctx context.Context, w wait, group types.UID, members []member, problem *string) ([]*snapshotv1.VolumeSnapshotContent, error) {
	byVolume, err := p.awaitBound(ctx, w, group, members)
	if err != nil {
		return nil, err
	}
	var contents []*snapshotv1.VolumeSnapshotContent
	for _, m := range members {
		content, err := p.awaitContent(ctx, w, byVolume[m.volume.Source.VolumeHandle], m.record, problem)
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

// boundEvery is how often a ready group's snapshots are looked at: their controller binds them after the group is.
const boundEvery = 200 * time.Millisecond

// awaitBound waits until each member has a snapshot that is bound to a content, and returns the contents' names by
// the members' volumes.
func (p *Provider) awaitBound(ctx context.Context, w wait, group types.UID, members []member) (byVolume map[string]string, err error) {
	err = w.run(ctx, func(ctx context.Context) error {
		ticker := time.NewTicker(boundEvery)
		defer ticker.Stop()
		for {
			var err error
			if byVolume, err = p.bound(ctx, w.op, group, members[0].claim.namespace); err != nil {
				return err
			}
			missing := slices.IndexFunc(members, func(m member) bool { return byVolume[m.volume.Source.VolumeHandle] == "" })
			if missing < 0 {
				return nil
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return fault.Newf(w.op, fault.Transient, members[missing].volume.id(), "the group snapshot is ready and has no snapshot of this volume")
			}
		}
	})
	return byVolume, err
}

// bound are the contents of a group's snapshots that have one, by their volumes.
func (p *Provider) bound(ctx context.Context, op string, group types.UID, namespace string) (map[string]string, error) {
	list, err := p.snapshots.SnapshotV1().VolumeSnapshots(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, wrap(op, namespace, err)
	}
	byVolume := map[string]string{}
	for _, s := range list.Items {
		owned := slices.ContainsFunc(s.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == group })
		if !owned || s.Status == nil || s.Status.BoundVolumeSnapshotContentName == nil {
			continue
		}
		content, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, *s.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
		if err != nil {
			return nil, wrap(op, s.Name, err)
		}
		if of := content.Spec.Source.VolumeHandle; of != nil {
			byVolume[*of] = content.Name
		}
	}
	return byVolume, nil
}

// deleteMember marks a snapshot of a group as deleted, and deletes the group with its last.
func (p *Provider) deleteMember(ctx context.Context, op string, content *snapshotv1.VolumeSnapshotContent, r record) error {
	defer p.movers.lock("group " + r.Group)()
	all := p.snapshots.SnapshotV1().VolumeSnapshotContents()
	patch := mergePatch(map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationDeleted: "yes"}}})
	if _, err := all.Patch(ctx, content.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return wrap(op, content.Name, err)
	}
	list, err := all.List(ctx, selectorOf(kindSnapshot, r.Token))
	if err != nil {
		return wrap(op, "VolumeSnapshotContents", err)
	}
	var names []string
	for i := range list.Items {
		if !isDeleted(&list.Items[i]) {
			return nil
		}
		names = append(names, list.Items[i].Name)
	}
	if err := p.deleteGroup(ctx, op, r.Namespace, r.Group, names); err != nil {
		return err
	}
	// Only now: the controller takes an import of a member for a member, and keeps it as long as there is the group.
	for i := range list.Items {
		state := snapshotState{Driver: list.Items[i].Spec.Driver, Snapshot: handleOf(&list.Items[i])}
		if err := p.removeImport(ctx, op, state); err != nil {
			return err
		}
	}
	return nil
}

// deleteGroup deletes the group from the storage, and then the contents of its members.
func (p *Provider) deleteGroup(ctx context.Context, op, namespace, name string, contents []string) error {
	apis, err := p.groupAPIs(op)
	if err != nil {
		return err
	}
	all, err := apis.contents.List(ctx, metav1.ListOptions{})
	if err != nil {
		return wrap(op, name, err)
	}
	own := ""
	for _, content := range all.Items {
		of, _, _ := unstructured.NestedString(content.Object, "spec", "volumeGroupSnapshotRef", "name")
		in, _, _ := unstructured.NestedString(content.Object, "spec", "volumeGroupSnapshotRef", "namespace")
		if of == name && in == namespace {
			own = content.GetName()
		}
	}
	if own != "" {
		if err := p.setGroupPolicy(ctx, op, apis, own, snapshotv1.VolumeSnapshotContentDelete); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	groups := apis.groups.Namespace(namespace)
	if err := deleteUntyped(ctx, p, op, groups, name); err != nil {
		return err
	}
	if own != "" {
		if err := deleteUntyped(ctx, p, op, apis.contents, own); err != nil {
			return err
		}
	}
	for _, content := range contents {
		got, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, content, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return wrap(op, content, err)
		}
		if err := p.deleteContent(ctx, op, namespace, got.Spec.VolumeSnapshotRef.Name, content); err != nil {
			return err
		}
	}
	return nil
}

func deleteUntyped(ctx context.Context, p *Provider, op string, all dynamic.ResourceInterface, name string) error {
	err := all.Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return wrap(op, name, err)
	}
	var problem string
	w := wait{op: op, subject: name, within: p.settings.DeleteTimeout, why: func(context.Context) string { return problem }}
	return awaitGone(ctx, w, objects[*unstructured.Unstructured](untyped{all}), name, func(current *unstructured.Unstructured) error {
		problem, _, _ = unstructured.NestedString(current.Object, "status", "error", "message")
		return nil
	})
}

// removeGroup removes the group of a failed call.
func (p *Provider) removeGroup(ctx context.Context, op string, members []member) error {
	group := members[0].record.Group
	if group == "" {
		return nil
	}
	list, err := p.snapshots.SnapshotV1().VolumeSnapshotContents().List(ctx, selectorOf(kindSnapshot, members[0].record.Token))
	if err != nil {
		return wrap(op, group, err)
	}
	var names []string
	for _, content := range list.Items {
		names = append(names, content.Name)
	}
	return p.deleteGroup(ctx, op, members[0].claim.namespace, group, names)
}
