package mem

import (
	"context"
	"maps"
	"slices"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// DiscoverMachines implements providers.Provider.
func (p *provider) DiscoverMachines(ctx context.Context, query providers.Query, each func(providers.Machine) error) error {
	const op = "discover machines"
	b, err := p.ready(op)
	if err != nil {
		return err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return err
	}
	for _, m := range sorted(s.Machines) {
		if !matches(query.Tags, m.Tags) || query.Machine != "" && query.Machine != m.ID || len(query.IDs) > 0 && !slices.Contains(query.IDs, m.ID) {
			continue
		}
		if ctx.Err() != nil {
			return ended(ctx, op)
		}
		if err := each(s.describeMachine(m)); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) describeMachine(m *machine) providers.Machine {
	described := providers.Machine{
		Handle: handle("machine", m.ID), ID: m.ID, Name: m.Name, Zone: m.Zone, State: "running",
		Tags: maps.Clone(m.Tags), Parameters: maps.Clone(m.Parameters),
	}
	for _, v := range sorted(s.Volumes) {
		if v.Machine == m.ID {
			described.VolumeIDs = append(described.VolumeIDs, v.ID)
		}
	}
	return described
}

// CreateMachine implements providers.Provider. The machine has a root volume when it is made from a snapshot.
func (p *provider) CreateMachine(ctx context.Context, request providers.MachineRequest) (providers.Machine, error) {
	const op = "create machine"
	b, err := p.ready(op)
	if err != nil {
		return providers.Machine{}, err
	}
	if request.Token == "" || request.Root.IsZero() && request.Parameters["image"] == "" {
		return providers.Machine{}, fault.Newf(op, fault.Invalid, request.Name, "it takes a token, and a root snapshot or the parameter image")
	}
	var root snapshot
	if !request.Root.IsZero() {
		if root, err = b.snapshotOf(ctx, op, request.Root); err != nil {
			return providers.Machine{}, err
		}
	}
	var result providers.Machine
	err = b.update(ctx, func(s *state) error {
		m, err := s.machineFor(op, request, root)
		if err == nil {
			result = s.describeMachine(m)
		}
		return err
	})
	return result, err
}

func (s *state) machineFor(op string, request providers.MachineRequest, root snapshot) (*machine, error) {
	by := by(request.Token, request)
	for _, m := range s.Machines {
		if same, err := m.same(op, by); same || err != nil {
			return m, err
		}
	}
	m := &machine{
		made: by, ID: "machine-" + random(), Name: request.Name, Zone: request.Zone,
		Tags: tagged(request.Tags, request.Token), Parameters: maps.Clone(request.Parameters),
	}
	if root.ID != "" {
		v := &volume{
			ID: "root-" + random(), Content: root.Content, Size: root.Size, Image: root.Image, Zone: request.Zone, Machine: m.ID,
			Tags: maps.Clone(m.Tags),
		}
		m.Root, s.Volumes[v.ID] = v.ID, v
	}
	s.Machines[m.ID] = m
	return m, nil
}

// DeleteMachine implements providers.Provider. The volume made for it goes with it; others are let go.
func (p *provider) DeleteMachine(ctx context.Context, h providers.Handle) error {
	const op = "delete machine"
	b, err := p.ready(op)
	if err != nil {
		return err
	}
	id, err := identify(op, "machine", h)
	if err != nil {
		return err
	}
	return b.update(ctx, func(s *state) error {
		m := s.Machines[id]
		if m == nil {
			return errUnchanged
		}
		if !ours(m.Tags) {
			return fault.Newf(op, fault.Denied, id, "Muster did not make it: it has no tag %s", providers.TagRun)
		}
		delete(s.Machines, id)
		delete(s.Volumes, m.Root)
		for _, v := range s.Volumes {
			if v.Machine == id {
				v.Machine = ""
			}
		}
		return b.sweep(s)
	})
}

// AddMachine makes a machine that is not Muster's, with some of the volumes.
func (b *Backend) AddMachine(ctx context.Context, described providers.Machine) (providers.Machine, error) {
	var result providers.Machine
	err := b.update(ctx, func(s *state) error {
		m := &machine{ID: described.ID, Name: described.Name, Zone: described.Zone, Tags: described.Tags, Parameters: described.Parameters}
		if m.ID == "" {
			m.ID = "machine-" + random()
		}
		s.Machines[m.ID] = m
		for _, id := range described.VolumeIDs {
			v := s.Volumes[id]
			if v == nil {
				return gone("add machine", id)
			}
			v.Machine = m.ID
		}
		result = s.describeMachine(m)
		return nil
	})
	return result, err
}
