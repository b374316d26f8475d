package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// SettleCluster clears what an etcd restore leaves stale, starts the workers' kubelets and waits
// until nodes and pods are ready again.
type SettleCluster struct {
	// Wait bounds the wait for nodes and pods; 0 means five minutes. What is not ready then is reported.
	Wait plans.Duration `yaml:"wait,omitempty"`
}

const (
	settleWait   = 5 * time.Minute
	settlePeriod = 500 * time.Millisecond
	settleLayer  = "cluster"
)

// Check has nothing to look at: the cluster is not there yet.
func (s *SettleCluster) Check(context.Context, *orchestrator.Run) error { return nil }

// Do can be repeated: each part looks for what is stale before it acts.
func (s *SettleCluster) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	client, err := administrator(ctx, run, controlPlanes(run.Machines)[0])
	if err != nil {
		return nil, err
	}
	if err := dropStaleLeases(ctx, run, client); err != nil {
		return nil, err
	}
	if err := dropGhostNodes(ctx, run, client); err != nil {
		return nil, err
	}
	for _, m := range run.Machines.Spec.Machines {
		if m.Role == plans.Worker {
			run.Progress.Status("starting " + m.Name)
			if err := startKubelet(ctx, run, m); err != nil {
				return nil, err
			}
		}
	}
	waiting, err := s.waitReady(ctx, run, client)
	if err != nil {
		return nil, err
	}
	for _, subject := range waiting {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Lost, Layer: settleLayer, Subject: subject,
			Text: "not ready after the wait: kubectl describe says why; it may still come up by itself"})
	}
	if err := dropMarkers(ctx, run); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"notReady": waiting})
}

// dropStaleLeases deletes leader-election leases, whose holders are gone, so that the new ones need
// not wait for them to expire. Node leases are renewed by the kubelets themselves.
func dropStaleLeases(ctx context.Context, run *orchestrator.Run, client kubernetes.Interface) error {
	leases, err := client.CoordinationV1().Leases("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return apiFault("list leases", "", err)
	}
	now := run.Now()
	for _, lease := range leases.Items {
		spec := lease.Spec
		if lease.Namespace == corev1.NamespaceNodeLease || spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
			continue
		}
		if now.Sub(spec.RenewTime.Time) < time.Duration(*spec.LeaseDurationSeconds)*time.Second {
			continue // somebody living holds it
		}
		options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &lease.ResourceVersion}}
		err := client.CoordinationV1().Leases(lease.Namespace).Delete(ctx, lease.Name, options)
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			continue // renewed or gone in the meantime
		}
		if err != nil {
			return apiFault("delete lease", lease.Name, err)
		}
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: settleLayer,
			Subject: "Lease " + lease.Namespace + "/" + lease.Name, Text: "its holder is gone; deleted so that a new one can take it at once"})
	}
	return nil
}

// dropGhostNodes deletes nodes without a machine, and the pods bound to them.
func dropGhostNodes(ctx context.Context, run *orchestrator.Run, client kubernetes.Interface) error {
	living := map[string]bool{}
	for _, m := range run.Machines.Spec.Machines {
		living[m.Name] = true
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return apiFault("list nodes", "", err)
	}
	for _, node := range nodes.Items {
		if living[node.Name] {
			continue
		}
		if err := client.CoreV1().Nodes().Delete(ctx, node.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return apiFault("delete node", node.Name, err)
		}
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Changed, Layer: settleLayer, Subject: "Node " + node.Name,
			Text: "no machine of the Machines document has its name: deleted, and its pods are made again elsewhere"})
	}
	return nil
}

// waitReady waits for nodes and pods, and returns those that are not ready when the wait is over.
func (s *SettleCluster) waitReady(ctx context.Context, run *orchestrator.Run, client kubernetes.Interface) ([]string, error) {
	wait := time.Duration(s.Wait)
	if wait == 0 {
		wait = settleWait
	}
	until, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ticker := time.NewTicker(settlePeriod)
	defer ticker.Stop()
	for {
		waiting, err := notReady(ctx, client, run.Now)
		if err == nil && len(waiting) == 0 {
			return nil, nil
		}
		if err == nil {
			run.Progress.Status(fmt.Sprintf("waiting for %s and %d more", waiting[0], len(waiting)-1))
		}
		select {
		case <-ticker.C:
		case <-until.Done():
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return waiting, err
		}
	}
}

// notReady lists nodes that are not ready, and pods that should run and are not ready. A status from
// before the loss does not count: a node's heartbeat must be newer than its lease's old holder.
func notReady(ctx context.Context, client kubernetes.Interface, now func() time.Time) ([]string, error) {
	var waiting []string
	leases, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, apiFault("list leases", "", err)
	}
	beating := map[string]bool{}
	for _, lease := range leases.Items {
		renewed, seconds := lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds
		beating[lease.Name] = renewed != nil && seconds != nil && now().Sub(renewed.Time) < time.Duration(*seconds)*time.Second
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, apiFault("list nodes", "", err)
	}
	for _, node := range nodes.Items {
		if !beating[node.Name] || !hasCondition(node.Status.Conditions) {
			waiting = append(waiting, "Node "+node.Name)
		}
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, apiFault("list pods", "", err)
	}
	for i := range pods.Items {
		if pod := &pods.Items[i]; !podSettled(pod) {
			waiting = append(waiting, "Pod "+pod.Namespace+"/"+pod.Name)
		}
	}
	return waiting, nil
}

func hasCondition(conditions []corev1.NodeCondition) bool {
	for _, c := range conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func podSettled(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return true
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// dropMarkers ends the machines' state of being restored.
func dropMarkers(ctx context.Context, run *orchestrator.Run) error {
	for _, m := range run.Machines.Spec.Machines {
		host, err := machine.Dial(ctx, m, run.Machines.Spec.SSH)
		if err != nil {
			return err
		}
		err = host.Run(ctx, machine.Command{Script: "rm -f " + machine.Quote(machine.MarkerPath)})
		_ = host.Close() // the command was waited for
		if err != nil {
			return err
		}
	}
	return nil
}

// apiFault gives errors of the API server their kind.
func apiFault(op, subject string, err error) error {
	kind := fault.Internal
	var network net.Error
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		kind = fault.Denied
	case apierrors.IsNotFound(err):
		kind = fault.NotFound
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err),
		apierrors.IsInternalError(err), strings.Contains(err.Error(), "connection refused"), errors.As(err, &network):
		kind = fault.Transient
	}
	return fault.New(op, kind, subject, err)
}

// Verify looks at the nodes again.
func (s *SettleCluster) Verify(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) error {
	client, err := administrator(ctx, run, controlPlanes(run.Machines)[0])
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return apiFault("list nodes", "", err)
	}
	if len(nodes.Items) == 0 {
		return fault.Newf("verify nodes", fault.NotFound, "", "the cluster has no node")
	}
	return nil
}

// Undo does nothing: what was stale stays away.
func (s *SettleCluster) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}
