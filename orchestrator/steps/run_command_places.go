package steps

import (
	"context"
	"os"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
)

func runOnRunner(ctx context.Context, script shell.Script) (commandPlace, int, error) {
	name, _ := os.Hostname() // it is for people
	code, err := shell.Runner{}.Run(ctx, script)
	return commandPlace{On: OnRunner, Machine: name}, code, err
}

// commandMachine finds a machine: in a rebuild among the targets, else in the Cluster document.
func commandMachine(run *orchestrator.Run, name string) (plans.Machine, plans.SSH, error) {
	var machines []plans.Machine
	var access plans.SSH
	switch {
	case run.Machines != nil:
		machines, access = run.Machines.Spec.Machines, run.Machines.Spec.SSH
	case run.Cluster != nil:
		machines, access = run.Cluster.Spec.Machines, run.Cluster.Spec.SSH
	}
	m, err := findMachine(machines, name)
	return m, access, err
}

func runOnMachine(ctx context.Context, run *orchestrator.Run, name string, script shell.Script) (commandPlace, int, error) {
	place := commandPlace{On: OnMachine, Machine: name}
	m, access, err := commandMachine(run, name)
	if err != nil {
		return place, 0, err
	}
	host, err := machine.Dial(ctx, m, access)
	if err != nil {
		return place, 0, err
	}
	defer host.Close()
	code, err := shell.Machine{Host: host}.Run(ctx, script)
	return place, code, err
}
