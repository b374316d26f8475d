package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// SettleCluster starts all kubelets, clears what a restore of etcd leaves stale, and waits until
// nodes and workloads are ready again.
type SettleCluster struct {
	// Wait bounds the whole; 0 means five minutes. What is not ready then is reported as lost.
	Wait plans.Duration `yaml:"wait,omitempty"`
}

const (
	settleWait  = 5 * time.Minute
	settleLayer = "cluster"
)

// Check has nothing to look at: the cluster is not there yet.
func (s *SettleCluster) Check(context.Context, *orchestrator.Run) error { return nil }

// Do can be repeated: each part looks for what is stale before it acts.
func (s *SettleCluster) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	recorded, err := recordedOf(ctx, run)
	if err != nil {
		return nil, err
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	pairs, dropped, err := targets(manifest, run.Machines)
	if err != nil {
		return nil, err
	}
	reportDropped(run, dropped)
	if err := renewConfigMaps(ctx, run, client.Kubernetes()); err != nil {
		return nil, err
	}
	settled, err := cluster.Settle(ctx, cluster.SettleConfig{
		Client: client, Targets: settleTargets(pairs), Before: manifest.Instant, Recorded: recorded,
		StartKubelet: func(ctx context.Context, t cluster.Target) error {
			m, err := findMachine(run.Machines.Spec.Machines, t.Name)
			if err != nil {
				return err
			}
			return startKubelet(ctx, run, m)
		},
		Wait:   cmp.Or(time.Duration(s.Wait), settleWait),
		Report: func(note cluster.Note) { run.Progress.Report(settleFinding(note)) },
		Status: run.Progress.Status, Now: run.Now,
	})
	if err != nil {
		return nil, err
	}
	if err := dropMarkers(ctx, run); err != nil {
		return nil, err
	}
	return json.Marshal(settled)
}

// recordedOf is nil when the point holds no objects to compare with.
func recordedOf(ctx context.Context, run *orchestrator.Run) (*cluster.Recorded, error) {
	recorded, err := cluster.ReadPoint(ctx, run.Repository, run.Point)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	return &recorded, err
}

func settleTargets(pairs []target) []cluster.Target {
	var out []cluster.Target
	for _, t := range pairs {
		out = append(out, cluster.Target{Name: t.Machine.Name, Was: t.Captured.Name, Address: t.Machine.Address, ControlPlane: t.Machine.Role == plans.ControlPlane})
	}
	return out
}

// reportDropped says what no target machine replaces. Disks that nobody receives are lost.
func reportDropped(run *orchestrator.Run, dropped []repository.MachineLayer) {
	for _, layer := range dropped {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Changed, Layer: "machines", Subject: "machine " + layer.Name,
			Text: "no target machine replaces this " + layer.Role + "; its root filesystem stays in " + layer.Rootfs.Path})
		for _, device := range layer.Devices {
			run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Lost, Layer: "disks", Subject: layer.Name + " " + device.Name,
				Text: "no target machine replaces its machine: its image stays in " + device.Image.Path})
		}
	}
}

func settleFinding(note cluster.Note) orchestrator.Finding {
	return orchestrator.Finding{Severity: orchestrator.Severity(note.Weight), Layer: settleLayer, Subject: note.Subject, Text: note.Text}
}

// dropMarkers ends the machines' state of being restored.
func dropMarkers(ctx context.Context, run *orchestrator.Run) error {
	for _, m := range run.Machines.Spec.Machines {
		host, err := machine.Dial(ctx, m, run.Machines.Spec.SSH)
		if err != nil {
			return err
		}
		err = host.Run(ctx, machine.Command{Script: "rm -rf " + machine.Quote(machine.MarkerPath) + " " + machine.Quote(originalsDir) + " " + machine.Quote(etcdMarkerPath)})
		_ = host.Close() // the command was waited for
		if err != nil {
			return err
		}
	}
	return nil
}

// Verify looks at the nodes again.
func (s *SettleCluster) Verify(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) error {
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	nodes, err := client.Kubernetes().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fault.New("verify nodes", fault.Transient, "", err)
	}
	for _, node := range nodes.Items {
		if _, err := findMachine(run.Machines.Spec.Machines, node.Name); err != nil {
			return fault.Newf("verify nodes", fault.Exists, node.Name, "no machine of the Machines document carries this node")
		}
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

// Summarize shows what was settled.
func (s *SettleCluster) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r cluster.Settled
	err := json.Unmarshal(receipt, &r)
	acted := 0
	for _, item := range r.Items {
		acted += item.Acted
	}
	n := int64(len(r.Items))
	return orchestrator.Summary{Layer: settleLayer, Unit: "checks", Expected: n, Done: n, Text: fmt.Sprintf("%d stale objects cleared", acted)}, err
}
