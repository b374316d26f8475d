package cluster

import (
	"context"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/providers/fault"
)

// The folder, of a volume of its own, in which a file lets a scratch server start that is held back.
const (
	scratchVolume = "muster-scratch"
	scratchFolder = "/muster-scratch"
	scratchGo     = scratchFolder + "/go"
)

// holdBack runs the container's own program once the file is there.
const holdBack = `until [ -e ` + scratchGo + ` ]; do sleep 1; done; exec "$@"`

// Scratch is a pod that runs a copy of a workload's server over volumes of its own, which are empty at first and go
// with it. It has none of the workload's labels, so that no Service and no controller takes it for one of its pods.
//
// A copy must not act as the original: it resolves no names, so that a cluster's other members, an archive of logs
// or a server that it would copy are not found by those in its configuration; it has no access to the API server
// and none of the original's hooks, host's namespaces and priority.
type Scratch struct {
	Helper
	uid  types.UID
	task string
}

// StartScratch makes a scratch pod for the workload of the queried pods. It waits until the server is ready, or,
// held back, until programs can be run in its container: the server starts with Release. It can be repeated; task is
// the same in every try. Also after an error the caller must End it.
//
// Errors: NotFound for no workload of such pods; Unsupported for one of several pods, one of an operator, one with
// block devices, and, held back, one whose program only its image knows; Busy when another task's pod is there;
// Transient when it is not ready in time.
func (c *Client) StartScratch(ctx context.Context, q PodQuery, task string, held bool) (Scratch, error) {
	pod, err := c.scratchOf(ctx, q, held)
	if err != nil {
		return Scratch{}, err
	}
	h, made, err := c.makeHelper(ctx, task, pod)
	s := Scratch{Helper: h, task: task}
	if err != nil {
		return s, err
	}
	s.uid = made.UID
	if held {
		return s, h.await(ctx, s.uid, runs, "its image must hold sh and sleep")
	}
	return s, s.AwaitReady(ctx)
}

// CheckScratch tells why StartScratch would refuse.
func (c *Client) CheckScratch(ctx context.Context, q PodQuery, held bool) error {
	_, err := c.scratchOf(ctx, q, held)
	return err
}

// AwaitReady waits until the server is ready, as its probe says.
func (s Scratch) AwaitReady(ctx context.Context) error {
	ready := func(pod *corev1.Pod) bool { return isReady(*pod) }
	return s.await(ctx, s.uid, ready, "a copy of the server does not start over empty volumes")
}

// Release lets a server start that was held back, and waits until it is ready.
func (s Scratch) Release(ctx context.Context) error {
	err := s.client.Exec(ctx, PodCommand{
		Namespace: s.Namespace, Pod: s.Name, Container: s.Container, Argv: []string{"sh", "-c", ": >" + scratchGo}, Stdout: io.Discard, Stderr: io.Discard,
	})
	if err != nil {
		return err
	}
	return s.AwaitReady(ctx)
}

// End takes the pod away, but none of another task. It can be repeated.
func (s Scratch) End(ctx context.Context) error {
	if s.Name == "" {
		return nil
	}
	return s.replaceOwn(ctx, s.task)
}

func (c *Client) scratchOf(ctx context.Context, q PodQuery, held bool) (*corev1.Pod, error) {
	w, err := c.workloadOf(ctx, q)
	if err != nil {
		return nil, err
	}
	if owner := metav1.GetControllerOfNoCopy(&w.meta); owner != nil {
		return nil, w.refuseScratch("it belongs to %s %s, whose pods are no servers without their operator", owner.Kind, owner.Name)
	}
	if n := w.wanted(); n > 1 {
		return nil, w.refuseScratch("it has %d replicas, and a copy of one could join the others", n)
	}
	return w.scratch(q.Container, held)
}

func (w stoppable) refuseScratch(format string, args ...any) error {
	return fault.Newf("make scratch pod", fault.Unsupported, w.subject(), format+": test it in a drill whose Cluster document names a scratch server", args...)
}

// scratch is a pod of the database's container alone.
func (w stoppable) scratch(container string, held bool) (*corev1.Pod, error) {
	own, err := w.container(container)
	if err != nil {
		return nil, err
	}
	template := w.template.Spec.DeepCopy()
	if len(own.VolumeDevices) > 0 {
		return nil, w.refuseScratch("container %s has block devices, which nothing stands in for", own.Name)
	}
	own.Lifecycle, own.Resources.Claims = nil, nil // what it tells others, and devices
	for i := range own.Ports {
		own.Ports[i].HostPort, own.Ports[i].HostIP = 0, "" // those are the original's
	}
	grace := int64(1) // nothing of it is kept
	spec := corev1.PodSpec{
		Containers: []corev1.Container{own}, Volumes: w.emptied(own), TerminationGracePeriodSeconds: &grace,
		ServiceAccountName: template.ServiceAccountName, ImagePullSecrets: template.ImagePullSecrets, SecurityContext: template.SecurityContext,
		NodeSelector: template.NodeSelector, Affinity: template.Affinity, Tolerations: template.Tolerations, RuntimeClassName: template.RuntimeClassName, OS: template.OS, HostUsers: template.HostUsers,
		DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"127.0.0.1"}}, // nobody answers
	}
	if held {
		err = w.holdBack(&spec)
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.meta.Namespace, Name: w.named("-scratch")}, Spec: spec}, err
}

// emptied are the volumes that a container mounts: an empty one for each whose data outlives the pod, no larger than
// the claim that it stands for.
func (w stoppable) emptied(own corev1.Container) []corev1.Volume {
	volumes := w.mounted(own)
	for i, v := range volumes {
		if lasts(v) {
			volumes[i].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: w.claimedSize(v.Name)}}
		}
	}
	return volumes
}

// claimedSize is that of a StatefulSet's claim; nil where there is none.
func (w stoppable) claimedSize(name string) *resource.Quantity {
	for _, claim := range w.claims {
		if size, asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]; claim.Name == name && asked {
			return &size
		}
	}
	return nil
}

// holdBack has the container wait before it runs its program. Meanwhile nothing is alive that a probe could find.
func (w stoppable) holdBack(spec *corev1.PodSpec) error {
	own := &spec.Containers[0]
	if len(own.Command) == 0 {
		return w.refuseScratch("the restore has to come before the server's start, and container %s leaves its program to the image: name it as command in the %s's template, test a logical backup", own.Name, w.kind)
	}
	own.Command = slices.Concat([]string{"sh", "-c", holdBack, "sh"}, own.Command)
	own.LivenessProbe, own.StartupProbe = nil, nil
	own.VolumeMounts = append(own.VolumeMounts, corev1.VolumeMount{Name: scratchVolume, MountPath: scratchFolder})
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: scratchVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	return nil
}
