package steps

import (
	"context"
	"net"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// answersWithin bounds the try to reach one API server; the next control-plane machine is tried
// after it.
const answersWithin = 8 * time.Second

// clusterClient reaches the cluster of a run: the inventory's, or, in a rebuild, the one that the
// first control-plane machine that answers serves, with that machine's admin.conf in memory. The
// caller closes the client.
func clusterClient(ctx context.Context, run *orchestrator.Run) (*cluster.Client, error) {
	if run.Machines != nil {
		return rebuiltClient(ctx, run)
	}
	if run.Cluster == nil {
		return nil, fault.Newf("reach cluster", fault.Invalid, run.Step, "the plan names no cluster: add spec.cluster")
	}
	spec := run.Cluster.Spec
	return cluster.Connect(cluster.Access{KubeconfigFile: spec.KubeconfigFile, Context: spec.Context})
}

// clientAs is a client of the cluster that does everything as a tenant, if there is one.
func clientAs(ctx context.Context, run *orchestrator.Run, tenant *cluster.Tenant) (*cluster.Client, error) {
	client, err := clusterClient(ctx, run)
	if err != nil || tenant == nil {
		return client, err
	}
	as, err := client.As(ctx, *tenant)
	if err != nil {
		client.Close()
		return nil, err
	}
	return as, nil
}

func rebuiltClient(ctx context.Context, run *orchestrator.Run) (*cluster.Client, error) {
	failed := fault.Newf("reach cluster", fault.Invalid, run.Machines.Metadata.Name, "no machine has the role control-plane")
	for _, m := range controlPlanes(run.Machines) {
		client, err := clientOf(ctx, run, m)
		if err == nil {
			return client, nil
		}
		failed = err
		run.Log.WarnContext(ctx, "no way to the API server through this machine", "machine", m.Name, "error", err)
	}
	return nil, failed
}

// clientOf connects to the API server of one machine under the machine's own address: the endpoint
// that its kubeconfig names need not be reachable from here.
func clientOf(ctx context.Context, run *orchestrator.Run, m plans.Machine) (*cluster.Client, error) {
	raw, err := adminKubeconfig(ctx, run, m)
	if err != nil {
		return nil, err
	}
	client, err := cluster.Connect(cluster.Access{Kubeconfig: raw, Server: "https://" + net.JoinHostPort(m.Address, apiServerPort)})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	if err := client.Ready(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}
