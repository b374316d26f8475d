package steps

import (
	"context"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// target is a machine of the rebuilt cluster and the captured one whose content it receives.
type target struct {
	Machine  plans.Machine
	Captured repository.MachineLayer
}

// targets pairs target machines with captured ones: by `replaces`, else by name. Every captured
// machine must have a successor of its name and address.
func targets(manifest repository.Manifest, machines *plans.Machines) ([]target, error) {
	captured := map[string]repository.MachineLayer{}
	for _, layer := range manifest.Machines {
		captured[layer.Name] = layer
	}
	var out []target
	for _, m := range machines.Spec.Machines {
		name := m.Replaces
		if name == "" {
			name = m.Name
		}
		layer, ok := captured[name]
		if !ok {
			return nil, fault.Newf("pair machines", fault.Invalid, m.Name,
				"the recovery point holds no machine %q that is not taken: it holds %s", name, strings.Join(capturedNames(manifest), ", "))
		}
		delete(captured, name)
		if m.Name != layer.Name || m.Address != layer.Address || string(m.Role) != layer.Role {
			return nil, fault.Newf("pair machines", fault.Unsupported, m.Name,
				"it was captured as %s %s at %s; a machine keeps its name, role and address in a rebuild", layer.Role, layer.Name, layer.Address)
		}
		out = append(out, target{m, layer})
	}
	for name := range captured {
		return nil, fault.Newf("pair machines", fault.Invalid, name, "no target machine replaces it: add one to the Machines document")
	}
	return out, nil
}

func capturedNames(manifest repository.Manifest) []string {
	var names []string
	for _, layer := range manifest.Machines {
		names = append(names, layer.Name)
	}
	return names
}

// pointOf opens the run's recovery point and checks its manifest's signature.
func pointOf(ctx context.Context, run *orchestrator.Run) (repository.Point, repository.Manifest, error) {
	point, err := run.Repository.Point(ctx, run.Point)
	if err != nil {
		return point, repository.Manifest{}, err
	}
	manifest, err := run.Repository.Manifest(ctx, point)
	return point, manifest, err
}

// targetOf is the pair that this task works on.
func targetOf(manifest repository.Manifest, run *orchestrator.Run) (target, error) {
	all, err := targets(manifest, run.Machines)
	if err != nil {
		return target{}, err
	}
	for _, t := range all {
		if t.Machine.Name == run.Item {
			return t, nil
		}
	}
	return target{}, fault.Newf("find machine", fault.NotFound, run.Item, "the Machines document lists no such machine")
}

// targetNames are the items of steps that work on every target machine.
func targetNames(run *orchestrator.Run) []string {
	var names []string
	for _, m := range run.Machines.Spec.Machines {
		names = append(names, m.Name)
	}
	return names
}
