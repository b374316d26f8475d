package steps

import (
	"context"
	"net"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/providers/fault"
)

// clusterClient reaches the cluster of a run: the inventory's, or, in a rebuild, the one that the
// first control-plane machine serves, with that machine's admin.conf in memory.
func clusterClient(ctx context.Context, run *orchestrator.Run) (*cluster.Client, error) {
	if run.Machines == nil {
		spec := run.Cluster.Spec
		return cluster.Connect(cluster.Access{KubeconfigFile: spec.KubeconfigFile, Context: spec.Context})
	}
	planes := controlPlanes(run.Machines)
	if len(planes) == 0 {
		return nil, fault.Newf("reach cluster", fault.Invalid, run.Machines.Metadata.Name, "no machine has the role control-plane")
	}
	raw, err := adminKubeconfig(ctx, run, planes[0])
	if err != nil {
		return nil, err
	}
	return cluster.Connect(cluster.Access{Kubeconfig: raw, Server: "https://" + net.JoinHostPort(planes[0].Address, apiServerPort)})
}
