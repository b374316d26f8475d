package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/providers/fault"
)

// replicasBefore is the annotation of a stopped workload with its number of replicas.
const replicasBefore = "muster.dev/replicas-before"

// stoppedWithin bounds the wait for a workload's pods to end: a server may have much to write.
const stoppedWithin = 30 * time.Minute

// StandIn is a helper with the image and the volumes of a pod whose workload is stopped: programs work on its data
// while its own do not.
type StandIn struct {
	Helper
	workload stoppable
	query    PodQuery
	task     string
}

// stoppable is a StatefulSet or a Deployment, as far as they are alike.
type stoppable struct {
	client   *Client
	kind     string // for people
	meta     metav1.ObjectMeta
	replicas int32
	selector *metav1.LabelSelector
	template corev1.PodTemplateSpec
	claims   []corev1.PersistentVolumeClaim // of a StatefulSet: each pod has its own
	ordinal  int32                          // of the pod that is stood in for
}

// Stop scales the workload of a pod to nothing, waits until its pods are gone, and starts a stand-in for the pod.
// It can be repeated; task is the same in every try. The workload stays stopped until StandIn.Resume: its number of
// replicas is in its annotation muster.dev/replicas-before.
//
// Errors: NotFound for no workload of such pods, Unsupported for one of several pods that Patroni does not lead, one
// whose volumes go with its pod, and one that an operator would start again; Busy when another task has stopped it.
func (c *Client) Stop(ctx context.Context, q PodQuery, task string) (StandIn, error) {
	w, err := c.stoppable(ctx, q)
	if err != nil {
		return StandIn{}, err
	}
	s := StandIn{workload: w, query: q, task: task}
	if err := w.scaleToNothing(ctx); err != nil {
		return s, errors.Join(err, s.Resume(ctx))
	}
	err = s.standFor(ctx, w)
	if err != nil && !fault.Is(err, fault.Busy) { // another task works on the data
		err = errors.Join(err, s.Resume(ctx))
	}
	return s, err
}

// standFor starts the stand-in with the volumes of one of the workload's pods.
func (s *StandIn) standFor(ctx context.Context, w stoppable) error {
	pod, err := w.standIn(s.query.Container)
	if err != nil {
		return err
	}
	helper, err := w.client.startHelper(ctx, s.task, pod)
	if fault.Is(err, fault.Busy) {
		return err
	}
	s.Helper = helper
	return err
}

// CheckStop tells why Stop would refuse.
func (c *Client) CheckStop(ctx context.Context, q PodQuery) error {
	_, err := c.stoppable(ctx, q)
	return err
}

func (c *Client) stoppable(ctx context.Context, q PodQuery) (stoppable, error) {
	w, err := c.workloadOf(ctx, q)
	if err != nil {
		return w, err
	}
	refuse := func(format string, args ...any) error {
		return fault.Newf("stop workload", fault.Unsupported, w.subject(), format, args...)
	}
	if owner := metav1.GetControllerOfNoCopy(&w.meta); owner != nil {
		return w, refuse("it belongs to %s %s, which would start it again: restore a logical backup into the server as it runs", owner.Kind, owner.Name)
	}
	switch n := w.wanted(); {
	case n != 1 && q.Patroni == "":
		return w, refuse("it has %d replicas, and only one can be given the data: scale it to 1, and let the others copy it afterwards", n)
	case n != 1 && len(w.claims) == 0:
		return w, refuse("its %d pods have no volumes of their own, and those of the others are emptied: restore a logical backup into the leader", n)
	}
	_, err = w.standIn(q.Container)
	return w, err
}

// workloadOf finds the workload of pods that may not be there.
func (c *Client) workloadOf(ctx context.Context, q PodQuery) (stoppable, error) {
	subject := q.Namespace + "/" + q.Name + q.Selector
	selector, err := labels.Parse(cmp.Or(q.Patroni, q.Selector))
	if err != nil {
		return stoppable{}, fault.New("find workload", fault.Invalid, subject, err)
	}
	all, err := c.stoppables(ctx, q.Namespace)
	if err != nil {
		return stoppable{}, err
	}
	all = slices.DeleteFunc(all, func(w stoppable) bool {
		if q.Name == "" || q.Patroni != "" {
			return !selector.Matches(labels.Set(w.template.Labels))
		}
		return fmt.Sprintf("%s-%d", w.meta.Name, w.ordinal) != q.Name && !w.hasPod(q.Name)
	})
	switch {
	case len(all) == 0:
		return stoppable{}, fault.Newf("find workload", fault.NotFound, subject, "no StatefulSet or Deployment has such a pod; another pod has to be stopped by hand")
	case len(all) > 1:
		return stoppable{}, fault.Newf("find workload", fault.Invalid, subject, "%d workloads have such pods: choose one by its name", len(all))
	}
	return all[0], nil
}

func (c *Client) stoppables(ctx context.Context, namespace string) ([]stoppable, error) {
	sets, err := c.typed.AppsV1().StatefulSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, classify("list statefulsets", namespace, err)
	}
	deployments, err := c.typed.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, classify("list deployments", namespace, err)
	}
	var all []stoppable
	for _, s := range sets.Items {
		all = append(all, stoppable{c, "StatefulSet", s.ObjectMeta, replicasOf(s.Spec.Replicas), s.Spec.Selector, s.Spec.Template, s.Spec.VolumeClaimTemplates, ordinalOf(s)})
	}
	for _, d := range deployments.Items {
		all = append(all, stoppable{client: c, kind: "Deployment", meta: d.ObjectMeta, replicas: replicasOf(d.Spec.Replicas), selector: d.Spec.Selector, template: d.Spec.Template})
	}
	return all, nil
}

func replicasOf(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// ordinalOf is that of a StatefulSet's first pod.
func ordinalOf(s appsv1.StatefulSet) int32 {
	if s.Spec.Ordinals == nil {
		return 0
	}
	return s.Spec.Ordinals.Start
}

func (w stoppable) subject() string { return w.meta.Namespace + "/" + w.meta.Name }

// hasPod reports whether a Deployment makes pods of such names: its own, a ReplicaSet's hash and five characters.
func (w stoppable) hasPod(name string) bool {
	rest, mine := strings.CutPrefix(name, w.meta.Name+"-")
	return mine && w.kind == "Deployment" && strings.Count(rest, "-") == 1
}

// wanted is the number of replicas, of a stopped workload that of before.
func (w stoppable) wanted() int32 {
	if n, err := strconv.ParseInt(w.meta.Annotations[replicasBefore], 10, 32); err == nil {
		return int32(n)
	}
	return w.replicas
}

// patch sets the number of replicas, and the annotation, or takes it away.
func (w stoppable) patch(ctx context.Context, replicas int32, before any) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{replicasBefore: before}, "resourceVersion": w.meta.ResourceVersion},
		"spec":     map[string]any{"replicas": replicas},
	})
	if err != nil {
		return err
	}
	if w.kind == "StatefulSet" {
		_, err = w.client.typed.AppsV1().StatefulSets(w.meta.Namespace).Patch(ctx, w.meta.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	} else {
		_, err = w.client.typed.AppsV1().Deployments(w.meta.Namespace).Patch(ctx, w.meta.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	return classify("scale "+w.kind, w.subject(), err)
}

func (w stoppable) scaleToNothing(ctx context.Context) error {
	if w.replicas > 0 {
		if err := w.patch(ctx, 0, strconv.Itoa(int(w.wanted()))); err != nil {
			return err
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(w.selector)
	if err != nil {
		return fault.New("find pods", fault.Invalid, w.subject(), err)
	}
	waiting, cancel := context.WithTimeout(ctx, stoppedWithin)
	defer cancel()
	return classify("stop "+w.kind, w.subject(), until(waiting, func() (bool, error) {
		pods, err := w.client.typed.CoreV1().Pods(w.meta.Namespace).List(waiting, metav1.ListOptions{LabelSelector: selector.String()})
		return err == nil && len(pods.Items) == 0, err
	}))
}

// standIn is a pod like the workload's own, of one container that does nothing, without its environment, which may
// hold credentials.
func (w stoppable) standIn(container string) (*corev1.Pod, error) {
	own, err := w.container(container)
	if err != nil {
		return nil, err
	}
	spec := w.template.Spec.DeepCopy()
	spec.Containers = []corev1.Container{{
		Name: own.Name, Image: own.Image, ImagePullPolicy: own.ImagePullPolicy, Resources: own.Resources,
		VolumeMounts: own.VolumeMounts, VolumeDevices: own.VolumeDevices, SecurityContext: own.SecurityContext,
	}}
	spec.InitContainers, spec.ReadinessGates = nil, nil
	spec.Volumes = w.mounted(own)
	if !slices.ContainsFunc(spec.Volumes, lasts) {
		return nil, fault.Newf("stop workload", fault.Unsupported, w.subject(), "container %s has no volume that outlives its pod: restore a logical backup into the server as it runs", own.Name)
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.meta.Namespace, Name: w.named("-stand-in")}, Spec: *spec}, nil
}

// container is a copy of a container of the template: the named one, else the one that its pods name as their default.
func (w stoppable) container(name string) (corev1.Container, error) {
	template := w.template.DeepCopy()
	like := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.meta.Namespace, Name: w.meta.Name, Annotations: template.Annotations}, Spec: template.Spec}
	_, name, err := containerOf(&like, name)
	if err != nil {
		return corev1.Container{}, err
	}
	return template.Spec.Containers[slices.IndexFunc(template.Spec.Containers, func(c corev1.Container) bool { return c.Name == name })], nil
}

// mounted are the volumes that a container mounts. A claim's takes the place of one of its name.
func (w stoppable) mounted(own corev1.Container) []corev1.Volume {
	named := map[string]bool{}
	return slices.DeleteFunc(append(w.claimed(), w.template.DeepCopy().Spec.Volumes...), func(v corev1.Volume) bool {
		again := named[v.Name]
		named[v.Name] = true
		return again || !slices.ContainsFunc(own.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
	})
}

// named is the workload's name and what a pod for it is, within the 63 characters of a host's name.
func (w stoppable) named(what string) string {
	return strings.TrimRight(w.meta.Name[:min(len(w.meta.Name), 63-len(what))], "-.") + what
}

// claimed are the volumes of a StatefulSet's pod by its claims.
func (w stoppable) claimed() []corev1.Volume {
	var volumes []corev1.Volume
	for _, claim := range w.claims {
		volumes = append(volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprintf("%s-%s-%d", claim.Name, w.meta.Name, w.ordinal)},
		}})
	}
	return volumes
}

// lasts reports whether a volume's data stays when its pod goes.
func lasts(v corev1.Volume) bool {
	s := v.VolumeSource
	return s.EmptyDir == nil && s.Ephemeral == nil && s.ConfigMap == nil && s.Secret == nil && s.Projected == nil && s.DownwardAPI == nil && s.Image == nil
}

// Guard ends the returned context when somebody starts the workload again: two programs on one folder destroy it.
func (s StandIn) Guard(ctx context.Context) (context.Context, context.CancelFunc) {
	guarded, end := context.WithCancelCause(ctx)
	go func() {
		_ = until(guarded, func() (bool, error) { // it ends with the context
			w, err := s.again(guarded)
			if err == nil && w.replicas > 0 {
				end(fault.Newf("guard workload", fault.Busy, w.subject(), "somebody scaled it to %d while its data was being restored: pause whatever did (a GitOps controller, an autoscaler)", w.replicas))
				return true, nil
			}
			return false, err
		})
	}()
	return guarded, func() { end(nil) }
}

// again is the workload as it is now.
func (s StandIn) again(ctx context.Context) (stoppable, error) {
	all, err := s.workload.client.stoppables(ctx, s.workload.meta.Namespace)
	if err != nil {
		return stoppable{}, err
	}
	i := slices.IndexFunc(all, func(w stoppable) bool { return w.meta.UID == s.workload.meta.UID })
	if i < 0 {
		return stoppable{}, classify("find workload", s.workload.subject(), apierrors.NewNotFound(appsv1.Resource(s.workload.kind), s.workload.meta.Name))
	}
	return all[i], nil
}

// Resume takes the stand-in away and gives the workload its replicas again.
func (s StandIn) Resume(ctx context.Context) error {
	w, err := s.leave(ctx)
	if err != nil || w.meta.Annotations[replicasBefore] == "" {
		return err
	}
	return w.patch(ctx, w.wanted(), nil)
}

// leave takes the stand-in away.
func (s StandIn) leave(ctx context.Context) (stoppable, error) {
	if s.Name != "" {
		if err := s.Remove(ctx); err != nil {
			return stoppable{}, err
		}
	}
	return s.again(ctx)
}
