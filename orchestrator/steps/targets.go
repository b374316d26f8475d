package steps

import (
	"context"
	"fmt"
	"slices"
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

// captured reports whether the machine receives anything; one that does not joins anew.
func (t target) captured() bool { return t.Captured.Name != "" }

// targets pairs target machines with captured ones: by `replaces`, else by name, else in order within
// a role. A worker that is left over joins anew; captured machines that are left over are dropped.
func targets(manifest repository.Manifest, machines *plans.Machines) (pairs []target, dropped []repository.MachineLayer, err error) {
	left := slices.Clone(manifest.Machines)
	slices.SortFunc(left, func(a, b repository.MachineLayer) int { return strings.Compare(a.Name, b.Name) })
	take := func(chosen func(repository.MachineLayer) bool) repository.MachineLayer {
		i := slices.IndexFunc(left, chosen)
		if i < 0 {
			return repository.MachineLayer{}
		}
		layer := left[i]
		left = slices.Delete(left, i, i+1)
		return layer
	}
	pairs = make([]target, len(machines.Spec.Machines))
	for i, m := range machines.Spec.Machines { // what is named goes first: nobody else may take it
		pairs[i].Machine = m
		if m.Replaces == "" {
			continue
		}
		pairs[i].Captured = take(func(layer repository.MachineLayer) bool { return layer.Name == m.Replaces })
		if !pairs[i].captured() {
			return nil, nil, fault.Newf("pair machines", fault.Invalid, m.Name,
				"the recovery point holds no machine %q that is not taken: it holds %s", m.Replaces, strings.Join(capturedNames(manifest), ", "))
		}
	}
	for i, m := range machines.Spec.Machines {
		if m.Replaces == "" {
			pairs[i].Captured = take(func(layer repository.MachineLayer) bool { return layer.Name == m.Name })
		}
		if pairs[i].captured() && string(m.Role) != pairs[i].Captured.Role {
			return nil, nil, fault.Newf("pair machines", fault.Invalid, m.Name, "it shall be a %s, and %s was a %s: give it that role", m.Role, pairs[i].Captured.Name, pairs[i].Captured.Role)
		}
	}
	for i := range pairs {
		if pairs[i].captured() {
			continue
		}
		role := string(pairs[i].Machine.Role)
		pairs[i].Captured = take(func(layer repository.MachineLayer) bool { return layer.Role == role })
		if !pairs[i].captured() && pairs[i].Machine.Role == plans.ControlPlane {
			return nil, nil, fault.Newf("pair machines", fault.Unsupported, pairs[i].Machine.Name,
				"the recovery point holds fewer control planes: rebuild with those, then add this one with kubeadm join --control-plane")
		}
	}
	return pairs, left, nil
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
	all, _, err := targets(manifest, run.Machines)
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

// Pairing lists, for people, what each target machine receives, and what nobody receives.
func Pairing(manifest repository.Manifest, machines *plans.Machines) ([]string, error) {
	pairs, dropped, err := targets(manifest, machines)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, t := range pairs {
		line := fmt.Sprintf("%s  %s  %s", t.Machine.Name, t.Machine.Address, t.Machine.Role)
		switch {
		case !t.captured():
			line += "  joins anew"
		case t.Captured.Name != t.Machine.Name || t.Captured.Address != t.Machine.Address:
			line += fmt.Sprintf("  was %s at %s", t.Captured.Name, t.Captured.Address)
		}
		lines = append(lines, line)
	}
	for _, layer := range dropped {
		lines = append(lines, fmt.Sprintf("nothing replaces %s (%s) at %s", layer.Name, layer.Role, layer.Address))
	}
	return lines, nil
}
