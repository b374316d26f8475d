package conformance

import (
	"maps"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func cloneCases() []trial {
	clones := needs(providers.CapSnapshot, providers.CapClone)
	return []trial{
		{name: "clone", needs: clones, of: both, body: clone},
		{name: "clone-grows", needs: append(clones, providers.CapRead), of: blocks, body: cloneGrows},
		{name: "clone-lives-on", needs: clones, of: both, body: cloneLivesOn},
		{name: "clone-changes", needs: append(clones, providers.CapRead), of: blocks, body: cloneChanges},
		{name: "copy-snapshot", needs: needs(providers.CapSnapshot, providers.CapCopy), of: both, body: copySnapshot},
	}
}

// content makes a volume with something in it, and a check that another volume has the same.
func (c *scope) filledVolume() (providers.Volume, func(providers.Provider, providers.Volume)) {
	if c.content == providers.ContentBlocks {
		content := c.picture(400)
		return c.painted(content), func(p providers.Provider, v providers.Volume) { c.volumeHolds(p, v, content) }
	}
	v := c.empty()
	c.inside(v, func(root string) { c.plant(root) })
	return v, func(p providers.Provider, v providers.Volume) {
		c.insideBy(p, v, func(root string) { c.planted(root) })
	}
}

func (c *scope) cloneOf(p providers.Provider, r providers.CreateRequest) (providers.Volume, error) {
	v, err := p.Create(c.ctx, r)
	if err == nil {
		c.keepVolume(v)
	}
	return v, err
}

func clone(c *scope) {
	v, check := c.filledVolume()
	n := c.snapshot(c.provider, v)
	r := c.request()
	r.Snapshot, r.Size = n.Handle, 0
	first, err := c.cloneOf(c.provider, r)
	c.must("make a volume from the snapshot", err)
	r.Size = first.Size
	c.looksRight(first, r)
	if first.Size < n.Size {
		c.Errorf("the volume has %d bytes; the snapshot has %d", first.Size, n.Size)
	}
	r.Size = 0
	other := c.other()
	again, err := c.cloneOf(other, r)
	c.must("make it again", err)
	c.same(first, again)
	check(other, first)
	if first.ID == v.ID {
		c.Errorf("the volume made from the snapshot is the volume itself")
	}
	_, err = other.Volume(c.ctx, v.Handle)
	c.must("describe the volume that was snapshotted", err)
	c.cloneRefuses(n)
}

func (c *scope) cloneRefuses(n providers.Snapshot) {
	if n.Size > 0 {
		r := c.request()
		r.Snapshot, r.Size = n.Handle, n.Size/2
		_, err := c.cloneOf(c.provider, r)
		c.refused("make a volume smaller than its snapshot", err, fault.Invalid)
	}
	c.must("delete the snapshot, or be told why not", c.unlessBusy(c.provider.DeleteSnapshot(c.ctx, n.Handle)))
	if _, err := c.provider.SnapshotOf(c.ctx, n.Handle); err == nil {
		return // it is busy
	}
	r := c.request()
	r.Snapshot, r.Size = n.Handle, 0
	_, err := c.cloneOf(c.provider, r)
	c.refused("make a volume from a snapshot that is gone", err, fault.NotFound)
}

// unlessBusy lets Busy pass.
func (c *scope) unlessBusy(err error) error {
	if fault.Is(err, fault.Busy) {
		return nil
	}
	return err
}

func cloneGrows(c *scope) {
	content := c.picture(410)
	n := c.snapshot(c.provider, c.painted(content))
	r := c.request()
	r.Snapshot, r.Size = n.Handle, 2*c.config.Size
	v, err := c.cloneOf(c.provider, r)
	c.must("make a larger volume from a snapshot", err)
	c.looksRight(v, r)
	content.size = v.Size
	c.volumeHolds(c.provider, v, content)
}

func cloneLivesOn(c *scope) {
	v, check := c.filledVolume()
	n := c.snapshot(c.provider, v)
	r := c.request()
	r.Snapshot, r.Size = n.Handle, 0
	copied, err := c.cloneOf(c.provider, r)
	c.must("make a volume from the snapshot", err)
	err = c.provider.DeleteSnapshot(c.ctx, n.Handle)
	c.must("delete the snapshot, or be told that it is busy", c.unlessBusy(err))
	busy := fault.Is(err, fault.Busy)
	if !busy {
		_, err = c.provider.SnapshotOf(c.ctx, n.Handle)
		c.refused("describe a deleted snapshot", err, fault.NotFound)
	}
	check(c.other(), copied)
	if busy && c.makes() {
		c.must("delete the clone", c.provider.DeleteVolume(c.ctx, copied.Handle))
		c.must("delete the snapshot, without a clone", c.provider.DeleteSnapshot(c.ctx, n.Handle))
	}
}

// cloneChanges writes into a clone: neither the snapshot nor the volume changes.
func cloneChanges(c *scope) {
	if !c.changeable() {
		c.Skipf("no way to change a live volume: the provider does not claim %q, and there is no Fill in the suite's configuration", providers.CapOverwrite)
	}
	before := c.picture(420)
	v := c.painted(before)
	n := c.snapshot(c.provider, v)
	r := c.request()
	r.Snapshot = n.Handle
	copied, err := c.cloneOf(c.provider, r)
	c.must("make a volume from the snapshot", err)
	after, written := c.repaint(before, 430)
	c.become(copied, before, after, written)
	c.holds(c.provider, n.Handle, before)
	c.volumeHolds(c.provider, v, before)
	c.volumeHolds(c.provider, copied, after)
}

func copySnapshot(c *scope) {
	if c.config.CopyTarget == nil {
		c.Skipf("no CopyTarget in the suite's configuration")
	}
	v, check := c.filledVolume()
	n := c.snapshot(c.provider, v)
	r := providers.CopyRequest{Token: c.token(), Snapshot: n.Handle, Target: c.config.CopyTarget, Tags: c.tags()}
	copied, err := c.provider.CopySnapshot(c.ctx, r)
	c.must("copy the snapshot", err)
	there, err := c.config.OpenCopies(c.ctx)
	c.must("open a client where copies are", err)
	defer there.Close()
	defer c.deleteCopy(there, copied)
	if copied.ID == n.ID || copied.Size != n.Size || copied.Content != n.Content {
		c.Errorf("the copy is %q of %d bytes of %s; the snapshot is %q of %d bytes of %s", copied.ID, copied.Size, copied.Content, n.ID, n.Size, n.Content)
	}
	c.tagged(copied.Tags, r.Tags, r.Token)
	again, err := c.other().CopySnapshot(c.ctx, r)
	c.must("copy it again by the same token", err)
	if again.ID != copied.ID {
		c.Errorf("the same token gave the copies %q and %q", copied.ID, again.ID)
	}
	different := r
	different.Tags = maps.Clone(r.Tags)
	different.Target = map[string]string{"no-such-target": "1"}
	different.Token = c.token()
	_, err = c.provider.CopySnapshot(c.ctx, different)
	c.refused("copy to a target that the provider does not know", err, fault.Invalid)
	copied = c.ready(there, copied)
	c.must("delete the snapshot", c.provider.DeleteSnapshot(c.ctx, n.Handle))
	c.copyHolds(there, copied, check)
}

// copyHolds compares a copy without its original: directly, or by a volume made from it.
func (c *scope) copyHolds(there providers.Provider, n providers.Snapshot, check func(providers.Provider, providers.Volume)) {
	if c.content == providers.ContentBlocks && c.info.Can(providers.CapRead) {
		c.holds(there, n.Handle, c.picture(400))
		return
	}
	if !c.info.Can(providers.CapClone) {
		c.Logf("the copy's content was not compared: the provider does not claim %q", providers.CapClone)
		return
	}
	r := c.request()
	r.Snapshot, r.Size, r.Zone = n.Handle, 0, ""
	v, err := there.Create(c.ctx, r)
	c.must("make a volume from the copy", err)
	check(there, v)
	c.must("delete the volume made from the copy", there.DeleteVolume(c.ctx, v.Handle))
}

func (c *scope) deleteCopy(there providers.Provider, n providers.Snapshot) {
	if err := there.DeleteSnapshot(c.ctx, n.Handle); err != nil {
		c.Errorf("delete the copy: %v", err)
	}
}
