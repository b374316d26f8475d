package conformance

import (
	"errors"
	"maps"
	"slices"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func machineCases() []trial {
	machines := needs(providers.CapMachines)
	return []trial{
		{name: "machine", needs: machines, body: machine},
		{name: "machine-discover", needs: machines, body: discoverMachines},
		{name: "machine-from-root", needs: append(machines, providers.CapSnapshot, providers.CapDiscover), of: blocks, body: machineFromRoot},
	}
}

// machineRequest is that of the configuration.
func (c *scope) machineRequest() providers.MachineRequest {
	if c.config.Machine == nil {
		c.Skipf("no Machine in the suite's configuration")
	}
	r := *c.config.Machine
	r.Token, r.Parameters, r.Tags = c.token(), maps.Clone(r.Parameters), maps.Clone(r.Tags)
	if r.Tags == nil {
		r.Tags = map[string]string{}
	}
	maps.Copy(r.Tags, c.tags())
	if r.Zone == "" {
		r.Zone = c.config.Zone
	}
	return r
}

func (c *scope) createMachine(p providers.Provider, r providers.MachineRequest) providers.Machine {
	m, err := p.CreateMachine(c.ctx, r)
	c.must("make a machine", err)
	return c.keepMachine(m)
}

// machines lists the IDs of those that match.
func (c *scope) listMachines(p providers.Provider, q providers.Query) []string {
	var got []string
	err := p.DiscoverMachines(c.ctx, q, func(m providers.Machine) error {
		got = append(got, m.ID)
		return nil
	})
	c.must("discover machines", err)
	slices.Sort(got)
	return got
}

func machine(c *scope) {
	r := c.machineRequest()
	m := c.createMachine(c.provider, r)
	c.handleIsSane(m.Handle)
	if m.ID == "" || m.Name != r.Name || m.State != "running" {
		c.Errorf("machine %q is called %q and is %q; expected %q, running", m.ID, m.Name, m.State, r.Name)
	}
	c.tagged(m.Tags, r.Tags, r.Token)
	other := c.other()
	if again := c.createMachine(other, r); again.ID != m.ID {
		c.Errorf("the same token gave the machines %q and %q", m.ID, again.ID)
	}
	if got := c.listMachines(other, providers.Query{Tags: c.tags()}); !slices.Equal(got, []string{m.ID}) {
		c.Errorf("the machines with the case's tags are %q; expected %q", got, m.ID)
	}
	c.must("delete the machine", other.DeleteMachine(c.ctx, m.Handle))
	c.must("delete it again", c.provider.DeleteMachine(c.ctx, m.Handle))
	if got := c.listMachines(other, providers.Query{Tags: c.tags()}); len(got) > 0 {
		c.Errorf("after it was deleted there are the machines %q", got)
	}
}

func discoverMachines(c *scope) {
	a, b := c.createMachine(c.provider, c.machineRequest()), c.createMachine(c.provider, c.machineRequest())
	all := []string{a.ID, b.ID}
	slices.Sort(all)
	for _, try := range []struct {
		name  string
		query providers.Query
		want  []string
	}{
		{"by tags", providers.Query{Tags: c.tags()}, all},
		{"by any value of a tag", providers.Query{Tags: map[string]string{providers.TagRun: c.config.Run, providers.TagStep: c.name, providers.TagToken: "*"}}, all},
		{"by ID", providers.Query{IDs: []string{b.ID}}, []string{b.ID}},
		{"by a value that none has", providers.Query{Tags: map[string]string{providers.TagStep: "none"}}, nil},
	} {
		if got := c.listMachines(c.other(), try.query); !slices.Equal(got, try.want) {
			c.Errorf("discover machines %s: %q; expected %q", try.name, got, try.want)
		}
	}
	err := c.provider.DiscoverMachines(c.ctx, providers.Query{Tags: c.tags()}, func(providers.Machine) error { return errStop })
	if !errors.Is(err, errStop) {
		c.Errorf("discover machines: an error of the callback became %v", err)
	}
}

// machineFromRoot makes a machine from the snapshot of a root disk. A root that boots is more than the suite
// can make: the machine must be there with a disk.
func machineFromRoot(c *scope) {
	r := c.machineRequest()
	r.Root = c.snapshot(c.provider, c.painted(c.picture(500))).Handle
	m := c.createMachine(c.provider, r)
	if len(m.VolumeIDs) == 0 {
		c.Errorf("the machine made from a root disk's snapshot has no volume")
	}
	var got []string
	err := c.other().Discover(c.ctx, providers.Query{Machine: m.ID}, func(v providers.Volume) error {
		got = append(got, v.ID)
		if v.Machine != m.ID {
			c.Errorf("volume %q is attached to %q; it was found by machine %q", v.ID, v.Machine, m.ID)
		}
		return nil
	})
	c.must("discover volumes by machine", err)
	slices.Sort(got)
	want := slices.Sorted(slices.Values(m.VolumeIDs))
	if !slices.Equal(got, want) {
		c.Errorf("the machine's volumes are %q, found by its ID are %q", want, got)
	}
	c.must("delete the machine", c.provider.DeleteMachine(c.ctx, m.Handle))
	r = c.machineRequest()
	r.Root = providers.Handle{Provider: c.info.Name, Version: 1 << 20, State: []byte("x")}
	_, err = c.provider.CreateMachine(c.ctx, r)
	c.refused("make a machine from a root that the provider cannot know", err, fault.Invalid, fault.NotFound)
}
