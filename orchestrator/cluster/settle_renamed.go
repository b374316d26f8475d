package cluster

import (
	"context"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// inherit gives the node of a renamed machine what people and kubeadm had written on its old Node,
// and returns its name; empty when no machine replaces the old one. A kubelet may not write most of
// it by itself.
func (s *settling) inherit(ctx context.Context, ghost string) (string, error) {
	successor := ""
	for _, target := range s.Targets {
		if target.Was == ghost {
			successor = target.Name
		}
	}
	if successor == "" {
		return "", nil
	}
	nodes := s.kube.CoreV1().Nodes()
	old, err := nodes.Get(ctx, ghost, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return successor, nil // an earlier try came this far
	}
	if err != nil {
		return "", err
	}
	var node *corev1.Node
	err = until(ctx, func() (bool, error) {
		node, err = nodes.Get(ctx, successor, metav1.GetOptions{})
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"labels": inherited(old.Labels, node.Labels), "annotations": inherited(old.Annotations, node.Annotations)},
		"spec":     map[string]any{"taints": wanted(old.Spec.Taints, node.Spec.Taints), "unschedulable": old.Spec.Unschedulable},
	})
	if err != nil {
		return "", err
	}
	_, err = nodes.Patch(ctx, successor, types.MergePatchType, patch, metav1.PatchOptions{})
	return successor, err
}

// inherited are the old entries under what the new node says of itself.
func inherited(old, own map[string]string) map[string]string {
	out := maps.Clone(old)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, own)
	return out
}

// wanted are the taints that somebody set; those of the node's condition are its own.
func wanted(old, own []corev1.Taint) []corev1.Taint {
	out := []corev1.Taint{}
	for _, taint := range own {
		if ofCondition(taint) {
			out = append(out, taint)
		}
	}
	for _, taint := range old {
		if !ofCondition(taint) {
			out = append(out, taint)
		}
	}
	return out
}

func ofCondition(taint corev1.Taint) bool {
	prefix := "node.kubernetes.io/"
	return len(taint.Key) > len(prefix) && taint.Key[:len(prefix)] == prefix
}

// remakeOrphans creates the pods of ghosts that no controller makes again, for the scheduler to place.
// Whatever refuses one may be put right by another item, a webhook without a backend above all.
func (s *settling) remakeOrphans(ctx context.Context) {
	for _, pod := range s.orphans {
		subject := "Pod " + pod.Namespace + "/" + pod.Name
		err := until(ctx, func() (bool, error) {
			err := s.remake(ctx, pod)
			return err == nil || !heldUp(classify("make a pod again", s.Client.Server(), err)), err
		})
		if err != nil {
			s.notef(Lost, subject, "its machine is gone, and it can't be made again elsewhere (%v): create it from the recovery point", err)
			continue
		}
		s.note(Changed, subject, "its machine is gone and no controller makes it again: created again, for another machine")
	}
	s.orphans = nil
}

func (s *settling) remake(ctx context.Context, pod corev1.Pod) error {
	again := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: pod.Annotations,
			OwnerReferences: pod.OwnerReferences, Finalizers: pod.Finalizers},
		Spec: pod.Spec,
	}
	again.Spec.NodeName = ""
	_, err := s.kube.CoreV1().Pods(pod.Namespace).Create(ctx, again, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
