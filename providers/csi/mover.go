package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/musterdr/muster/providers/fault"
)

const (
	moverContainer = "mover"
	moverDevice    = "/dev/muster"
	moverGate      = "muster.dev/volume" // keeps a mover from its node until its clone is bound
)

// life is what a mover does while nobody calls: it ends by itself when there was no call for a quarter of an
// hour, so that what a dead process left behind ends too, and counts as left over.
const life = `trap 'exit 0' TERM
: >/run/muster/alive
while [ -n "$(find /run/muster/alive -mmin -15)" ]; do sleep 5 & wait $!; done`

// moverPod is a mover as it will be made: over a claim, or over a snapshot's clone that goes with the pod.
type moverPod struct {
	name  string
	claim string
	clone *corev1.PersistentVolumeClaimSpec
	late  bool // the clone is made when the pod has its node
	mode  corev1.PersistentVolumeMode
	zone  string
}

// gates keep a pod from its node until its clone is bound: a kubelet that sees the pod before that puts it off
// by ten seconds and more.
func (m moverPod) gates() []corev1.PodSchedulingGate {
	if m.clone == nil || m.late {
		return nil
	}
	return []corev1.PodSchedulingGate{{Name: moverGate}}
}

func (p *Provider) podOf(m moverPod) *corev1.Pod {
	no, yes, grace := false, true, int64(2)
	source := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: m.claim}}
	if m.clone != nil {
		template := &corev1.PersistentVolumeClaimTemplate{ObjectMeta: metav1.ObjectMeta{Labels: labelsOf(kindMover, "")}, Spec: *m.clone}
		source = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}}
	}
	selector := map[string]string{}
	for key, value := range p.settings.NodeSelector {
		selector[key] = value
	}
	if m.zone != "" {
		selector[zoneLabel] = m.zone
	}
	container := corev1.Container{
		Name: moverContainer, Image: p.settings.Image, Command: []string{"/bin/sh", "-c", life},
		VolumeMounts: []corev1.VolumeMount{{Name: "run", MountPath: "/run/muster"}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if m.mode == corev1.PersistentVolumeBlock {
		container.VolumeDevices = []corev1.VolumeDevice{{Name: "volume", DevicePath: moverDevice}}
	} else {
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: "volume", MountPath: "/volume"})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: m.name, Labels: labelsOf(kindMover, "")},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no, EnableServiceLinks: &no, RestartPolicy: corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &grace, NodeSelector: selector, SchedulingGates: m.gates(), Containers: []corev1.Container{container},
			Volumes: []corev1.Volume{
				{Name: "volume", VolumeSource: source},
				{Name: "run", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			},
		},
	}
}

// startMover makes the pod, or finds it, and waits until it runs.
func (p *Provider) startMover(ctx context.Context, op string, m moverPod) error {
	pods := p.kube.CoreV1().Pods(p.settings.Namespace)
	w := wait{op: op, subject: "mover " + m.name, within: p.settings.VolumeTimeout, why: func(ctx context.Context) string {
		return p.events(ctx, m.name, cloneName(m.name))
	}}
	for {
		_, err := pods.Create(ctx, p.podOf(m), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return wrap(op, "mover "+m.name, err)
		}
		pod, err := await(ctx, w, pods, m.name, func(pod *corev1.Pod) (bool, error) { return runs(op, pod) })
		if err != nil {
			return err
		}
		if pod.DeletionTimestamp == nil && len(pod.Spec.SchedulingGates) > 0 {
			if err := p.openGate(ctx, w, m.name); err != nil {
				return err
			}
			continue
		}
		if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
			return nil
		}
		if err := p.removeMover(ctx, op, m.name); err != nil { // one that an earlier process left, and that has ended
			return err
		}
	}
}

// openGate waits until a mover's clone is bound, and lets the pod go to its node.
func (p *Provider) openGate(ctx context.Context, w wait, name string) error {
	if err := w.run(ctx, func(ctx context.Context) error { return p.cloneBound(ctx, w, cloneName(name)) }); err != nil {
		return err
	}
	patch := mergePatch(map[string]any{"spec": map[string]any{"schedulingGates": nil}})
	_, err := p.kube.CoreV1().Pods(p.settings.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return vanished(w.op, w.subject, wrap(w.op, w.subject, err))
}

// cloneBound waits until Kubernetes has made a mover's clone and bound it.
func (p *Provider) cloneBound(ctx context.Context, w wait, name string) error {
	for ctx.Err() == nil {
		watcher, err := p.kube.CoreV1().PersistentVolumeClaims(p.settings.Namespace).Watch(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(),
		})
		if err != nil {
			return wrap(w.op, w.subject, err)
		}
		done, err := p.boundIn(w, watcher)
		watcher.Stop()
		if done || err != nil {
			return err
		}
	}
	return wrap(w.op, w.subject, ctx.Err())
}

// boundIn reads a watch of one claim until the claim is bound, or the watch ends.
func (p *Provider) boundIn(w wait, watcher watch.Interface) (bool, error) {
	for event := range watcher.ResultChan() {
		claim, ok := event.Object.(*corev1.PersistentVolumeClaim)
		if !ok {
			return false, nil // an error: another watch tells
		}
		if event.Type == watch.Deleted {
			return false, fault.Newf(w.op, fault.Busy, claim.Name, "another process has removed the mover; try again")
		}
		if claim.Status.Phase == corev1.ClaimBound {
			return true, nil
		}
	}
	return false, nil
}

// cloneName is the claim that Kubernetes makes for a mover's ephemeral volume.
func cloneName(mover string) string { return mover + "-volume" }

// runs tells whether waiting for a pod is over: it runs, it has ended, or it waits for its gate.
func runs(op string, pod *corev1.Pod) (bool, error) {
	if pod.DeletionTimestamp != nil || len(pod.Spec.SchedulingGates) > 0 || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return true, nil
	}
	for _, status := range pod.Status.ContainerStatuses {
		if waiting := status.State.Waiting; waiting != nil {
			switch waiting.Reason {
			case "ErrImageNeverPull", "InvalidImageName", "ImagePullBackOff", "CreateContainerConfigError":
				return false, fault.Newf(op, fault.Invalid, "mover "+pod.Name, "%s: %s; the setting image names an image that the nodes can have", waiting.Reason, waiting.Message)
			}
		}
	}
	return pod.Status.Phase == corev1.PodRunning, nil
}

// removeMover deletes a mover and waits until the node has let go of its volume.
func (p *Provider) removeMover(ctx context.Context, op, name string) error {
	pods := p.kube.CoreV1().Pods(p.settings.Namespace)
	err := pods.Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return wrap(op, "mover "+name, err)
	}
	return awaitGone(ctx, wait{op: op, subject: "mover " + name, within: p.settings.DeleteTimeout}, pods, name, nil)
}

// removeEndedMovers removes the movers that nobody called for so long that they ended.
func (p *Provider) removeEndedMovers(ctx context.Context) error {
	const op = "remove what is left over"
	pods := p.kube.CoreV1().Pods(p.settings.Namespace)
	list, err := pods.List(ctx, selectorOf(kindMover, ""))
	if err != nil {
		return wrap(op, "movers", err)
	}
	for _, pod := range list.Items {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			continue
		}
		if err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return wrap(op, "mover "+pod.Name, err)
		}
	}
	return nil
}

// exec runs a script in a mover. Standard input and output are streams of any length.
func (p *Provider) exec(ctx context.Context, op, mover, script string, stdin io.Reader, stdout io.Writer) error {
	request := p.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.settings.Namespace).Name(mover).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: moverContainer, Command: []string{"/bin/sh", "-c", script}, Stdin: stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(p.rest, "GET", request.URL().String())
	if err != nil {
		return fault.New(op, fault.Internal, mover, err)
	}
	diagnostics := &shortText{}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: diagnostics})
	if err == nil || ctx.Err() != nil {
		return wrap(op, mover, ctx.Err())
	}
	if text := diagnostics.String(); text != "" {
		return fault.Newf(op, kindOfMover(text), "mover "+mover, "%w: %s", err, text)
	}
	if ended := utilexec.ExitError(nil); errors.As(err, &ended) {
		return fault.Newf(op, fault.Transient, "mover "+mover, "%w: the mover's script was cut off", err)
	}
	if kind := kindOf(err); kind != fault.Internal {
		return wrap(op, "mover "+mover, err)
	}
	return fault.New(op, fault.Transient, "mover "+mover, err)
}

func kindOfMover(text string) fault.Kind {
	switch {
	case strings.Contains(text, "No space left"):
		return fault.NoSpace
	case strings.Contains(text, "not found"), strings.Contains(text, "invalid"):
		return fault.Invalid
	}
	return fault.Transient
}

// shortText keeps the beginning of what a command says on standard error.
type shortText struct{ strings.Builder }

func (s *shortText) Write(data []byte) (int, error) {
	if room := 1000 - s.Len(); room > 0 {
		s.Builder.Write(data[:min(room, len(data))])
	}
	return len(data), nil
}

func (s *shortText) String() string { return strings.TrimSpace(s.Builder.String()) }

// events are the last things that happened to objects in the namespace: why a wait takes so long.
func (p *Provider) events(ctx context.Context, names ...string) string {
	var out []string
	for _, name := range names {
		list, err := p.kube.CoreV1().Events(p.settings.Namespace).List(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("involvedObject.name", name).String(), Limit: 20,
		})
		if err != nil {
			continue // the wait's own error is told all the same
		}
		for _, event := range list.Items {
			if event.Type == corev1.EventTypeWarning {
				out = append(out, fmt.Sprintf("%s: %s", event.Reason, event.Message))
			}
		}
	}
	return strings.Join(out, "; ")
}
