package cluster

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/providers/fault"
)

// Labels and annotations of what stands in a cluster for the time of a task.
const (
	managedBy = "app.kubernetes.io/managed-by"
	taskLabel = "muster.dev/task"
)

const (
	// helperLife is when a helper ends that nobody took away.
	helperLife = 48 * time.Hour
	// helperWithin bounds the wait for a helper to run: its image may have to be fetched, and its volumes to be
	// attached to another node.
	helperWithin = 10 * time.Minute
	// idle is what a helper's container runs until it is told to end.
	idle = `trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done`
)

// Helper is a pod that stands in a cluster for the time of one task. No credential is in its spec.
type Helper struct {
	client    *Client
	Namespace string
	Name      string
	Container string
}

// HelperConfig says what a helper is.
type HelperConfig struct {
	Namespace      string
	Name           string
	Image          string
	ServiceAccount string // default the namespace's own
	Task           string // the same in every try of a task: a helper that an earlier try left is replaced
}

// StartHelper makes a pod of an image that holds sh and sleep, and waits until it runs. It has no access to the API
// server. Errors: Busy when a helper of another task has the name; Transient when it does not run in time.
func (c *Client) StartHelper(ctx context.Context, config HelperConfig) (Helper, error) {
	grace := int64(1)
	return c.startHelper(ctx, config.Task, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: config.Namespace, Name: config.Name},
		Spec: corev1.PodSpec{
			ServiceAccountName: config.ServiceAccount, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "tools", Image: config.Image}},
		},
	})
}

// startHelper has the pod's one container idle, and waits until it runs.
func (c *Client) startHelper(ctx context.Context, task string, pod *corev1.Pod) (Helper, error) {
	pod.Spec.Containers[0].Command, pod.Spec.Containers[0].Args = []string{"sh", "-c", idle}, nil
	h, made, err := c.makeHelper(ctx, task, pod)
	if err != nil {
		return h, err
	}
	return h, h.await(ctx, made.UID, runs, "its image must hold sh and sleep")
}

// makeHelper completes the pod of one container: it ends by itself when it is forgotten.
func (c *Client) makeHelper(ctx context.Context, task string, pod *corev1.Pod) (Helper, *corev1.Pod, error) {
	off, life := false, int64(helperLife.Seconds())
	pod.Labels = map[string]string{managedBy: "muster", taskLabel: task}
	pod.Spec.RestartPolicy, pod.Spec.ActiveDeadlineSeconds = corev1.RestartPolicyNever, &life
	pod.Spec.AutomountServiceAccountToken, pod.Spec.EnableServiceLinks = &off, &off
	h := Helper{c, pod.Namespace, pod.Name, pod.Spec.Containers[0].Name}
	if err := h.replaceOwn(ctx, task); err != nil {
		return h, nil, err
	}
	made, err := c.typed.CoreV1().Pods(h.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	return h, made, classify("make helper pod", h.subject(), err)
}

func runs(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning }

func (h Helper) subject() string { return h.Namespace + "/" + h.Name }

// replaceOwn takes away what an earlier try of the same task left, and refuses what another task has made.
func (h Helper) replaceOwn(ctx context.Context, task string) error {
	found, err := h.client.typed.CoreV1().Pods(h.Namespace).Get(ctx, h.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return classify("find helper pod", h.subject(), err)
	}
	if found.Labels[taskLabel] != task {
		return fault.Newf("make helper pod", fault.Busy, h.subject(), "there is one that is not this task's: if the run that made it is dead, delete the pod")
	}
	return h.Remove(ctx)
}

// Remove takes the pod away and waits until it is gone, and its volumes with it.
func (h Helper) Remove(ctx context.Context) error {
	err := h.client.typed.CoreV1().Pods(h.Namespace).Delete(ctx, h.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return classify("remove helper pod", h.subject(), err)
	}
	waiting, cancel := context.WithTimeout(ctx, helperWithin)
	defer cancel()
	err = until(waiting, func() (bool, error) {
		_, err := h.client.typed.CoreV1().Pods(h.Namespace).Get(waiting, h.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	return classify("remove helper pod", h.subject(), err)
}

// await returns when the pod is as it shall be; must says what it lacks when it ends before.
func (h Helper) await(ctx context.Context, made types.UID, shall func(*corev1.Pod) bool, must string) error {
	waiting, cancel := context.WithTimeout(ctx, helperWithin)
	defer cancel()
	var last *corev1.Pod
	err := until(waiting, func() (bool, error) {
		found, err := h.client.typed.CoreV1().Pods(h.Namespace).Get(waiting, h.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		last = found
		switch {
		case found.UID != made || found.DeletionTimestamp != nil:
			return true, fault.Newf("start helper pod", fault.Transient, h.subject(), "somebody deleted it")
		case found.Status.Phase == corev1.PodFailed || found.Status.Phase == corev1.PodSucceeded:
			return true, fault.Newf("start helper pod", fault.Unsupported, h.subject(), "it ended at once (%s): %s", whyNot(found), must)
		}
		return shall(found), nil
	})
	if err != nil && last != nil && ctx.Err() == nil && waiting.Err() != nil {
		return fault.Newf("start helper pod", fault.Transient, h.subject(), "it is not ready after %s: %s", helperWithin, whyNot(last))
	}
	return classify("start helper pod", h.subject(), err)
}

// whyNot tells what a pod waits for, or how it ended.
func whyNot(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "" {
			return w.Reason + " " + w.Message
		}
		if t := s.State.Terminated; t != nil {
			return t.Reason + " " + t.Message
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message
		}
	}
	return string(pod.Status.Phase)
}
