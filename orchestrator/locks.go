package orchestrator

import (
	"context"

	"github.com/musterdr/muster/plans"
)

// lock takes the resources that the run works on, before its first side effect: each layer of its
// cluster that a step is for, each machine that it fills, and what the plan names.
func (x *execution) lock(ctx context.Context) error {
	wait := x.plan.Plan.Spec.OnLocked == plans.OnLockedWait
	return x.journal.Lock(ctx, x.resources(), wait, func(name, run string) {
		x.Log.Warn("waiting for another run", "run", x.id, "resource", name, "holder", run)
	})
}

func (x *execution) resources() []string {
	var names []string
	for _, step := range x.ledger.steps {
		for _, name := range step.spec.Locks {
			names = append(names, "lock/"+name)
		}
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
