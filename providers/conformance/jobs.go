package conformance

import (
	"context"

	"github.com/musterdr/muster/providers"
)

// job is one method of the contract, to be cut off in the middle and repeated.
type job struct {
	name  string
	needs []providers.Capability
	of    providers.Content // "": the first that is tried
	// prepare makes what the job works on, and returns tries: each a call that can be repeated, of another
	// token than the one before.
	prepare func(c *scope) func() try
}

// try is a call and what must be so after it has succeeded, no matter how often it was cut off before.
type try struct {
	call  func(ctx context.Context, p providers.Provider) error
	check func(p providers.Provider)
}

func jobs() []job {
	snapshots, reads := needs(providers.CapSnapshot), needs(providers.CapSnapshot, providers.CapRead)
	attaches := needs(providers.CapFiles)
	machines := needs(providers.CapMachines)
	return []job{
		{name: "health", prepare: looking(func(ctx context.Context, _ *scope, p providers.Provider) error {
			_, err := p.Health(ctx)
			return err
		})},
		{name: "discover", needs: needs(providers.CapDiscover), prepare: looking(func(ctx context.Context, c *scope, p providers.Provider) error {
			return p.Discover(ctx, providers.Query{Tags: c.tags()}, func(providers.Volume) error { return nil })
		})},
		{name: "list-snapshots", needs: snapshots, prepare: looking(func(ctx context.Context, c *scope, p providers.Provider) error {
			return p.ListSnapshots(ctx, providers.Query{Tags: c.tags()}, func(providers.Snapshot) error { return nil })
		})},
		{name: "describe", needs: reads, of: providers.ContentBlocks, prepare: describeJob},
		{name: "create", prepare: createJob},
		{name: "delete-volume", prepare: deleteVolumeJob},
		{name: "write", needs: needs(providers.CapWrite), of: providers.ContentBlocks, prepare: writeJob},
		{name: "overwrite", needs: needs(providers.CapOverwrite), of: providers.ContentBlocks, prepare: overwriteJob},
		{name: "snapshot", needs: snapshots, prepare: snapshotJob},
		{name: "delete-snapshot", needs: snapshots, prepare: deleteSnapshotJob},
		{name: "clone", needs: needs(providers.CapSnapshot, providers.CapClone), prepare: cloneJob},
		{name: "copy-snapshot", needs: needs(providers.CapSnapshot, providers.CapCopy), prepare: copyJob},
		{name: "extents", needs: reads, of: providers.ContentBlocks, prepare: extentsJob},
		{name: "read", needs: reads, of: providers.ContentBlocks, prepare: readJob},
		{name: "attach", needs: attaches, of: providers.ContentFiles, prepare: attachJob},
		{name: "detach", needs: attaches, of: providers.ContentFiles, prepare: detachJob},
		{name: "changes", needs: needs(providers.CapSnapshot, providers.CapSnapFile, providers.CapChanges), of: providers.ContentFiles, prepare: changesJob},
		{name: "discover-machines", needs: machines, prepare: looking(func(ctx context.Context, c *scope, p providers.Provider) error {
			return p.DiscoverMachines(ctx, providers.Query{Tags: c.tags()}, func(providers.Machine) error { return nil })
		})},
		{name: "create-machine", needs: machines, prepare: createMachineJob},
		{name: "delete-machine", needs: machines, prepare: deleteMachineJob},
	}
}

// looking is a job that changes nothing.
func looking(call func(ctx context.Context, c *scope, p providers.Provider) error) func(*scope) func() try {
	return func(c *scope) func() try {
		return func() try {
			return try{
				call:  func(ctx context.Context, p providers.Provider) error { return call(ctx, c, p) },
				check: func(providers.Provider) {},
			}
		}
	}
}

func describeJob(c *scope) func() try {
	f := c.fixture()
	return looking(func(ctx context.Context, _ *scope, p providers.Provider) error {
		_, err := p.Volume(ctx, f.volume.Handle)
		if err == nil {
			_, err = p.SnapshotOf(ctx, f.base.Handle)
		}
		return err
	})(c)
}

func createJob(c *scope) func() try {
	if !c.makes() {
		c.Skipf("the provider makes no volumes of %s", c.content)
	}
	made := 0
	return func() try {
		made++
		r, want := c.request(), made
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				_, err := c.tryCreate(ctx, p, r)
				return err
			},
			check: func(p providers.Provider) { c.expectVolumes(p, want) },
		}
	}
}

func deleteVolumeJob(c *scope) func() try {
	if !c.makes() {
		c.Skipf("the provider makes no volumes of %s", c.content)
	}
	return func() try {
		v := c.empty()
		return try{
			call:  func(ctx context.Context, p providers.Provider) error { return p.DeleteVolume(ctx, v.Handle) },
			check: func(p providers.Provider) { c.expectVolumes(p, 0) },
		}
	}
}

func writeJob(c *scope) func() try {
	content := c.picture(600)
	made := 0
	return func() try {
		made++
		r, want := c.request(), made
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				_, err := c.write(ctx, p, r, content)
				return err
			},
			check: func(p providers.Provider) {
				v, err := c.write(c.ctx, p, r, content)
				c.must("write once more", err)
				c.volumeHolds(p, v, content)
				c.expectVolumes(p, want)
			},
		}
	}
}

func overwriteJob(c *scope) func() try {
	v := c.painted(c.picture(610))
	seed := uint64(620)
	return func() try {
		seed += 10
		content := c.picture(seed)
		r := c.request()
		r.Size = v.Size
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				_, err := p.Write(ctx, providers.WriteRequest{CreateRequest: r, Into: v.Handle}, c.source(content))
				return err
			},
			check: func(p providers.Provider) {
				c.volumeHolds(p, v, content)
				c.expectVolumes(p, 1)
			},
		}
	}
}

func snapshotJob(c *scope) func() try {
	volumes := c.several(2)
	made := 0
	return func() try {
		made++
		r, want := providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{volumes[0].Handle, volumes[1].Handle}, Tags: c.tags()}, 2*made
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				_, err := p.Snapshot(ctx, r)
				return err
			},
			check: func(p providers.Provider) {
				c.take(p, r)
				c.expectSnapshots(p, want)
			},
		}
	}
}

func deleteSnapshotJob(c *scope) func() try {
	v := c.empty()
	return func() try {
		n := c.snapshot(c.provider, v)
		return try{
			call:  func(ctx context.Context, p providers.Provider) error { return p.DeleteSnapshot(ctx, n.Handle) },
			check: func(p providers.Provider) { c.expectSnapshots(p, 0) },
		}
	}
}

func cloneJob(c *scope) func() try {
	n := c.snapshot(c.provider, c.empty())
	made := 0
	if c.makes() {
		made = 1
	}
	return func() try {
		made++
		r, want := c.request(), made
		r.Snapshot, r.Size = n.Handle, 0
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				v, err := p.Create(ctx, r)
				if err == nil {
					c.keepVolume(v)
				}
				return err
			},
			check: func(p providers.Provider) { c.expectVolumes(p, want) },
		}
	}
}

func copyJob(c *scope) func() try {
	if c.config.CopyTarget == nil {
		c.Skipf("no CopyTarget in the suite's configuration")
	}
	n := c.snapshot(c.provider, c.empty())
	return func() try {
		r := providers.CopyRequest{Token: c.token(), Snapshot: n.Handle, Target: c.config.CopyTarget, Tags: c.tags()}
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				_, err := p.CopySnapshot(ctx, r)
				return err
			},
			check: func(p providers.Provider) { c.oneCopy(p, r) },
		}
	}
}

// oneCopy expects one snapshot of the copy's token where copies are, and deletes it.
func (c *scope) oneCopy(p providers.Provider, r providers.CopyRequest) {
	copied, err := p.CopySnapshot(c.ctx, r)
	c.must("copy once more", err)
	there, err := c.config.OpenCopies(c.ctx)
	c.must("open a client where copies are", err)
	defer there.Close()
	found := 0
	err = there.ListSnapshots(c.ctx, providers.Query{Tags: map[string]string{providers.TagRun: c.config.Run, providers.TagToken: r.Token}}, func(providers.Snapshot) error {
		found++
		return nil
	})
	c.must("list copies", err)
	if found != 1 {
		c.Errorf("%d copies of one token; expected one", found)
	}
	c.deleteCopy(there, copied)
}

func extentsJob(c *scope) func() try {
	f := c.fixture()
	r := providers.ExtentsRequest{Snapshot: f.snapshot.Handle}
	if c.info.Can(providers.CapChanged) && f.changed {
		r.Base = f.base.Handle
	}
	return looking(func(ctx context.Context, _ *scope, p providers.Provider) error {
		return p.Extents(ctx, r, func([]providers.Extent) error { return nil })
	})(c)
}

func readJob(c *scope) func() try {
	f := c.fixture()
	r := providers.ReadRequest{Snapshot: f.base.Handle, Extents: []providers.Extent{{Length: f.base.Size}}}
	return func() try {
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				return p.Read(ctx, r, func(providers.Block) error { return nil })
			},
			check: func(p providers.Provider) { c.holds(p, f.base.Handle, f.before) },
		}
	}
}

func attachJob(c *scope) func() try {
	v := c.empty()
	c.inside(v, c.plant)
	return func() try {
		r := providers.AttachRequest{Token: c.token(), Volume: v.Handle}
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				a, err := p.Attach(ctx, r)
				if err == nil {
					c.keepMount(a)
				}
				return err
			},
			check: func(p providers.Provider) {
				a := c.attach(p, r)
				c.planted(a.Path)
				c.must("detach", p.Detach(c.ctx, a.Handle))
			},
		}
	}
}

func detachJob(c *scope) func() try {
	v := c.empty()
	return func() try {
		a := c.attach(c.provider, providers.AttachRequest{Volume: v.Handle})
		return try{
			call:  func(ctx context.Context, p providers.Provider) error { return p.Detach(ctx, a.Handle) },
			check: func(p providers.Provider) { c.must("detach once more", p.Detach(c.ctx, a.Handle)) },
		}
	}
}

func changesJob(c *scope) func() try {
	v := c.empty()
	c.inside(v, c.plant)
	r := providers.ChangesRequest{Volume: v.Handle, Since: c.marked(v), Until: c.marked(v)}
	return looking(func(ctx context.Context, _ *scope, p providers.Provider) error {
		return p.Changes(ctx, r, func([]string) error { return nil })
	})(c)
}

func createMachineJob(c *scope) func() try {
	made := 0
	return func() try {
		made++
		r, want := c.machineRequest(), made
		return try{
			call: func(ctx context.Context, p providers.Provider) error {
				m, err := p.CreateMachine(ctx, r)
				if err == nil {
					c.keepMachine(m)
				}
				return err
			},
			check: func(p providers.Provider) { c.expectMachines(p, want) },
		}
	}
}

func deleteMachineJob(c *scope) func() try {
	return func() try {
		m := c.createMachine(c.provider, c.machineRequest())
		return try{
			call:  func(ctx context.Context, p providers.Provider) error { return p.DeleteMachine(ctx, m.Handle) },
			check: func(p providers.Provider) { c.expectMachines(p, 0) },
		}
	}
}

// expectMachines says how many machines there must be.
func (c *scope) expectMachines(p providers.Provider, want int) {
	if got := c.listMachines(p, providers.Query{Tags: c.tags()}); len(got) != want {
		c.Errorf("%d machines carry the case's tags; expected %d", len(got), want)
	}
}
