package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// workload is one object that wants pods.
type workload struct {
	kind, namespace, name string
	ready, wanted         int64
}

func (w workload) subject() string { return w.kind + " " + w.namespace + "/" + w.name }

// workloads waits until each has as many ready pods as it had, or as it wants now if that is fewer.
func (s *settling) workloads(ctx context.Context) (string, int, error) {
	had, err := s.readyBefore(ctx)
	if err != nil {
		return "", 0, err
	}
	var short []workload
	var unseen []string
	total := 0
	err = until(ctx, func() (bool, error) {
		all, err := s.listWorkloads(ctx)
		if err != nil {
			return false, err
		}
		total, short = len(all), nil
		for _, w := range all {
			wanted := w.wanted
			if before, known := had[w.subject()]; known {
				wanted = min(wanted, before)
			}
			if w.ready < wanted {
				short = append(short, workload{w.kind, w.namespace, w.name, w.ready, wanted})
			}
		}
		unseen, err = s.unseenPods(ctx, had)
		s.Status(fmt.Sprintf("%d of %d workloads are ready", total-len(short), total))
		return len(short) == 0 && len(unseen) == 0, err
	})
	for _, pod := range unseen {
		s.note(Lost, "Pod "+pod, "it was ready, and its kubelet has not said so since: look at kubectl describe, and at kubelet's log on its node")
	}
	for _, w := range short {
		s.notef(Lost, w.subject(), "%d of %d pods are ready: look at kubectl -n %s describe pods", w.ready, w.wanted, w.namespace)
	}
	if err != nil && len(short) == 0 && len(unseen) == 0 {
		return "", 0, err
	}
	return fmt.Sprintf("%d of %d have as many ready pods as before", total-len(short), total), 0, nil
}

// unseenPods lists the pods that were ready and whose kubelet has not found them ready since the
// restore. The restored status itself says that they are, of containers that started before the loss;
// and the counts of their controllers lag behind.
func (s *settling) unseenPods(ctx context.Context, had map[string]int64) ([]string, error) {
	pods, err := s.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var unseen []string
	for _, pod := range pods.Items {
		name := pod.Namespace + "/" + pod.Name
		if s.startedBefore(pod) || had["Pod "+name] > 0 && !isReady(pod) {
			unseen = append(unseen, name)
		}
	}
	return unseen, nil
}

func (s *settling) startedBefore(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil && c.State.Running.StartedAt.Time.Before(s.Before)
	})
}

func isReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// nodesAnswer reports whether every node's status is of now.
func (s *settling) nodesAnswer(ctx context.Context) (bool, error) {
	waiting, err := s.notReady(ctx)
	return len(waiting) == 0, err
}

func workloadKinds() []Resource {
	return []Resource{
		{Group: "apps", Version: "v1", Name: "deployments", Kind: "Deployment", Namespaced: true},
		{Group: "apps", Version: "v1", Name: "statefulsets", Kind: "StatefulSet", Namespaced: true},
		{Group: "apps", Version: "v1", Name: "daemonsets", Kind: "DaemonSet", Namespaced: true},
		{Group: "apps", Version: "v1", Name: "replicasets", Kind: "ReplicaSet", Namespaced: true},
		{Version: "v1", Name: "replicationcontrollers", Kind: "ReplicationController", Namespaced: true},
		{Version: "v1", Name: "pods", Kind: "Pod", Namespaced: true},
	}
}

func (s *settling) listWorkloads(ctx context.Context) ([]workload, error) {
	var all []workload
	for _, r := range workloadKinds() {
		err := s.Client.list(ctx, r, 0, nil, func(raw json.RawMessage) error {
			o, err := decodeObject(raw)
			if err != nil {
				return err
			}
			o["kind"] = r.Kind
			if !o.controlled() && !ended(o) { // a ReplicaSet of a Deployment counts with it
				all = append(all, workloadOf(o))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func workloadOf(o Object) workload {
	w := workload{kind: o.kind(), namespace: o.namespace(), name: o.name(), ready: number(at(o, "status", "readyReplicas")), wanted: 1}
	if replicas := at(o, "spec", "replicas"); replicas != nil {
		w.wanted = number(replicas)
	}
	switch w.kind {
	case "DaemonSet":
		w.ready, w.wanted = number(at(o, "status", "numberReady")), number(at(o, "status", "desiredNumberScheduled"))
	case "Pod":
		w.ready = podReady(o)
	}
	return w
}

func podReady(o Object) int64 {
	conditions, _ := at(o, "status", "conditions").([]any)
	for _, condition := range conditions {
		if at(condition, "type") == "Ready" && at(condition, "status") == "True" {
			return 1
		}
	}
	return 0
}

func number(value any) int64 {
	text, ok := value.(json.Number)
	if !ok {
		return 0
	}
	n, err := text.Int64()
	if err != nil {
		return 0
	}
	return n
}

// readyBefore reads from the recovery point how many pods of each workload were ready.
func (s *settling) readyBefore(ctx context.Context) (map[string]int64, error) {
	had := map[string]int64{}
	if s.Recorded == nil {
		return had, nil
	}
	for _, entry := range s.Recorded.Entries {
		if !slices.ContainsFunc(workloadKinds(), func(r Resource) bool { return r.Group == entry.Group && r.Name == entry.Resource }) {
			continue
		}
		text, err := s.Recorded.Load(ctx, entry.ID)
		if err != nil {
			return nil, err
		}
		o, err := parseFile(entry.Path(), text)
		if err != nil {
			return nil, err
		}
		w := workloadOf(o)
		had[w.subject()] = w.ready
	}
	return had, nil
}

// staleReasons are the reasons with which a kubelet or a controller gave up a pod for good because of
// what the node looked like while it came back.
func staleReasons() []string {
	return []string{"NodeAffinity", "NodeLost", "NodeShutdown", "Terminated", "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods", "Shutdown"}
}

// stalePods deletes pods that were given up while the machines came back, so that their controllers
// make others. A pod without a controller is left, and noted.
func (s *settling) stalePods(ctx context.Context) (string, int, error) {
	if err := until(ctx, func() (bool, error) { return s.nodesAnswer(ctx) }); err != nil {
		return "", 0, err
	}
	pods, err := s.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.phase=" + string(corev1.PodFailed)})
	if err != nil {
		return "", 0, err
	}
	deleted := 0
	for _, pod := range pods.Items {
		if !slices.Contains(staleReasons(), pod.Status.Reason) || endedBefore(pod, s) {
			continue
		}
		subject := "Pod " + pod.Namespace + "/" + pod.Name
		if metav1.GetControllerOf(&pod) == nil {
			s.notef(Lost, subject, "given up on %s (%s), and no controller makes it again: create it from the recovery point", pod.Spec.NodeName, pod.Status.Reason)
			continue
		}
		if err := s.forceDelete(ctx, pod); err != nil {
			return "", deleted, err
		}
		deleted++
		s.notef(Changed, subject, "replaced: it was given up on %s while that came back (%s)", pod.Spec.NodeName, strings.ToLower(pod.Status.Reason))
	}
	return fmt.Sprintf("%d replaced", deleted), deleted, nil
}

// endedBefore reports a pod that had failed before the loss already.
func endedBefore(pod corev1.Pod, s *settling) bool {
	for _, status := range pod.Status.ContainerStatuses {
		if ended := status.State.Terminated; ended != nil && !ended.FinishedAt.IsZero() && ended.FinishedAt.Time.Before(s.Before) {
			return true
		}
	}
	return false
}
