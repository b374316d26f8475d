package cluster

import (
	"cmp"
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
)

// defaultContainer is the annotation by which a pod says which of its containers people mean.
const defaultContainer = "kubectl.kubernetes.io/default-container"

// PodQuery names a container to run programs in.
type PodQuery struct {
	Namespace string
	Name      string // else the first ready pod, by name, that Selector chooses
	Selector  string
	Container string // empty means the pod's default, else its first
	Patroni   string // chooses what belongs to a Patroni cluster: to stop one of its pods is to stop all
}

// FindPod returns the names of a pod that runs and of its container. Errors: NotFound when the named
// pod, or the container, is not there; Transient when no pod is ready.
func (c *Client) FindPod(ctx context.Context, q PodQuery) (pod, container string, err error) {
	if q.Name != "" {
		found, err := c.typed.CoreV1().Pods(q.Namespace).Get(ctx, q.Name, metav1.GetOptions{})
		if err != nil {
			return "", "", classify("find pod", q.Namespace+"/"+q.Name, err)
		}
		if found.Status.Phase != corev1.PodRunning {
			return "", "", fault.Newf("find pod", fault.Transient, q.Namespace+"/"+q.Name, "it is %s, not Running", found.Status.Phase)
		}
		return containerOf(found, q.Container)
	}
	list, err := c.typed.CoreV1().Pods(q.Namespace).List(ctx, metav1.ListOptions{LabelSelector: q.Selector})
	if err != nil {
		return "", "", classify("find pod", q.Namespace+"/"+q.Selector, err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for _, found := range list.Items {
		if found.DeletionTimestamp == nil && isReady(found) {
			return containerOf(&found, q.Container)
		}
	}
	return "", "", fault.Newf("find pod", fault.Transient, q.Namespace+"/"+q.Selector, "none of %d pods is ready", len(list.Items))
}

// AwaitPod waits until FindPod finds a pod, and that is ready.
func (c *Client) AwaitPod(ctx context.Context, q PodQuery) error {
	return until(ctx, func() (bool, error) {
		name, _, err := c.FindPod(ctx, q)
		if err != nil {
			return false, err
		}
		pod, err := c.typed.CoreV1().Pods(q.Namespace).Get(ctx, name, metav1.GetOptions{})
		return err == nil && isReady(*pod), err
	})
}

func containerOf(pod *corev1.Pod, name string) (string, string, error) {
	var names []string
	for _, container := range pod.Spec.Containers {
		names = append(names, container.Name)
	}
	name = cmp.Or(name, pod.Annotations[defaultContainer], names[0])
	if !slices.Contains(names, name) {
		return "", "", fault.Newf("find container", fault.NotFound, name, "pod %s/%s has %s", pod.Namespace, pod.Name, strings.Join(names, ", "))
	}
	return pod.Name, name, nil
}
