package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// heartbeat is longer than a kubelet waits between two renewals of its node's lease (10 s). A node
// whose lease stands still for so long has no kubelet that reaches this API server.
const heartbeat = 15 * time.Second

// kubelets starts what is not started yet and waits until every machine's node is ready, by a
// heartbeat of now: the restored status says that all were ready before the loss.
func (s *settling) kubelets(ctx context.Context) (string, int, error) {
	var starting errgroup.Group
	for _, target := range s.Targets {
		starting.Go(func() error {
			if err := s.StartKubelet(ctx, target); err != nil {
				s.notef(Lost, "Machine "+target.Name, "its kubelet cannot be started: %v", err)
			}
			return nil // the others shall go on; its node is reported below too
		})
	}
	_ = starting.Wait()
	var waiting []string
	err := until(ctx, func() (bool, error) {
		var err error
		waiting, err = s.notReady(ctx)
		s.Status(fmt.Sprintf("%d of %d nodes are ready", len(s.Targets)-len(waiting), len(s.Targets)))
		return len(waiting) == 0, err
	})
	for _, name := range waiting {
		s.note(Lost, "Node "+name, "it is not ready: look at kubelet's log there (journalctl -u kubelet)")
	}
	if err != nil && len(waiting) == 0 {
		return "", 0, err
	}
	return fmt.Sprintf("%d of %d nodes are ready", len(s.Targets)-len(waiting), len(s.Targets)), 0, nil
}

func (s *settling) notReady(ctx context.Context) ([]string, error) {
	nodes, err := s.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	for _, node := range nodes.Items {
		ready[node.Name] = readyNow(node, s.Before)
	}
	var waiting []string
	for _, target := range s.Targets {
		if !ready[target.Name] {
			waiting = append(waiting, target.Name)
		}
	}
	return waiting, nil
}

func readyNow(node corev1.Node, since time.Time) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue && condition.LastHeartbeatTime.After(since)
		}
	}
	return false
}

// ghosts removes Nodes without a machine, after their machines proved to be gone, with what is bound
// to them: as long as a pod is bound to a dead node its StatefulSet makes no other.
func (s *settling) ghosts(ctx context.Context) (string, int, error) {
	before, err := s.ghostRenewals(ctx)
	if err != nil || len(before) == 0 && len(s.orphans) == 0 {
		return "there are none", 0, err
	}
	if err := sleep(ctx, heartbeat); err != nil {
		return "", 0, err
	}
	after, err := s.ghostRenewals(ctx)
	if err != nil {
		return "", 0, err
	}
	removed := 0
	for name, renewed := range after {
		if renewed.After(before[name]) { // a lease that is gone was cleared as stale meanwhile
			s.note(Lost, "Node "+name, "its kubelet lives, and no target machine has this name: stop that machine, or name it in the Machines document")
			continue
		}
		if err := s.removeGhost(ctx, name); err != nil {
			return "", removed, err
		}
		removed++
	}
	s.remakeOrphans(ctx)
	return fmt.Sprintf("%d removed", removed), removed, nil
}

// ghostRenewals returns the last heartbeats of nodes that no target machine carries.
func (s *settling) ghostRenewals(ctx context.Context) (map[string]time.Time, error) {
	nodes, err := s.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	renewals := map[string]time.Time{}
	for _, node := range nodes.Items {
		if _, lives := s.targets[node.Name]; lives {
			continue
		}
		lease, err := s.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		renewals[node.Name] = time.Time{}
		if err == nil && lease.Spec.RenewTime != nil {
			renewals[node.Name] = lease.Spec.RenewTime.Time
		}
	}
	return renewals, nil
}

func (s *settling) removeGhost(ctx context.Context, name string) error {
	pods, err := s.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return err
	}
	successor, err := s.inherit(ctx, name)
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		if metav1.GetControllerOf(&pod) == nil {
			s.orphans = append(s.orphans, pod)
		}
	}
	// The Node goes first: nothing can be bound to it any more while its pods go.
	if err := s.kube.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	for _, pod := range pods.Items {
		if err := s.forceDelete(ctx, pod); err != nil {
			return err
		}
	}
	attachments, err := s.removeAttachments(ctx, name)
	if err != nil {
		return err
	}
	became := "no machine has this name any more"
	if successor != "" {
		became = "its machine is called " + successor + " now, and has its labels and taints"
	}
	s.notef(Changed, "Node "+name, "removed, with %d pods and %d volume attachments: %s", len(pods.Items), attachments, became)
	return nil
}

// forceDelete removes a pod at once: no kubelet is left that could confirm its end.
func (s *settling) forceDelete(ctx context.Context, pod corev1.Pod) error {
	now := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	err := s.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another pod of the same name stands there already
	}
	return err
}

func (s *settling) removeAttachments(ctx context.Context, node string) (int, error) {
	attachments := s.kube.StorageV1().VolumeAttachments()
	list, err := attachments.List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, attachment := range list.Items {
		if attachment.Spec.NodeName != node {
			continue
		}
		if err := attachments.Delete(ctx, attachment.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return removed, err
		}
		removed++
		if len(attachment.Finalizers) > 0 {
			s.notef(Info, "VolumeAttachment "+attachment.Name, "is being deleted; its driver has to detach the volume and drop %s", strings.Join(attachment.Finalizers, ", "))
		}
	}
	return removed, nil
}
