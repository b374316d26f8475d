package orchestrator

import (
	"context"
)

// lock takes the resources that the run works on, before its first side effect: each layer of its
// cluster that a step is for, and each machine that it fills.
func (x *execution) lock(ctx context.Context) error {
	return x.journal.Lock(ctx, x.resources(), false, func(name, run string) {
		x.Log.Warn("waiting for another run", "run", x.id, "resource", name, "holder", run)
	})
}

func (x *execution) resources() []string {
	var names []string
	for _, step := range x.ledger.steps {
		layer := x.definitions[step.spec.Uses].Layer
		if layer == "" {
			continue
		}
		if x.plan.Cluster != nil {
			names = append(names, "cluster/"+x.plan.Cluster.Metadata.Name+"/"+layer)
		}
		if x.plan.Machines == nil {
			continue
		}
		for _, m := range x.plan.Machines.Spec.Machines {
			names = append(names, "machine/"+m.Address)
		}
	}
	return names
}
