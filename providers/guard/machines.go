package guard

import (
	"context"
	"slices"

	"github.com/musterdr/muster/providers"
)

func (g *Guard) checkMachine(op string, m providers.Machine) error {
	return g.checkDescribed(op, described{
		handle: m.Handle, id: m.ID, names: []string{m.Name, m.Address, m.Zone, m.State}, tags: m.Tags,
		parameters: m.Parameters, lists: m.VolumeIDs,
	})
}

// DiscoverMachines implements providers.Machines.
func (g *Guard) DiscoverMachines(ctx context.Context, query providers.Query, each func(providers.Machine) error) error {
	const op = "discover machines"
	if err := g.needs(op, providers.CapMachines); err != nil {
		return err
	}
	once := g.once(op)
	check := func(m providers.Machine) error {
		if err := g.checkMachine(op, m); err != nil {
			return err
		}
		if !matches(query.Tags, m.Tags) || len(query.IDs) > 0 && !slices.Contains(query.IDs, m.ID) {
			return g.lie(op, "%s is not what was asked for", m.ID)
		}
		return once(m.ID)
	}
	return list(ctx, g, op, func(ctx context.Context, each func(providers.Machine) error) error {
		return g.inner.DiscoverMachines(ctx, query, each)
	}, check, each)
}

// CreateMachine implements providers.Machines.
func (g *Guard) CreateMachine(ctx context.Context, request providers.MachineRequest) (providers.Machine, error) {
	const op = "create machine"
	if err := g.needs(op, providers.CapMachines); err != nil {
		return providers.Machine{}, err
	}
	m, err := one(ctx, g, op, func(ctx context.Context) (providers.Machine, error) { return g.inner.CreateMachine(ctx, request) })
	if err == nil {
		err = g.checkMachine(op, m)
	}
	if err != nil {
		return providers.Machine{}, err
	}
	return m, nil
}

// DeleteMachine implements providers.Machines.
func (g *Guard) DeleteMachine(ctx context.Context, machine providers.Handle) error {
	const op = "delete machine"
	if err := g.needs(op, providers.CapMachines); err != nil {
		return err
	}
	return g.remove(ctx, op, machine, g.inner.DeleteMachine)
}
