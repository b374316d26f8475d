package conformance

import (
	"bytes"
	"errors"
	"slices"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func readCases() []trial {
	reads := needs(providers.CapSnapshot, providers.CapRead)
	changed := needs(providers.CapSnapshot, providers.CapRead, providers.CapChanged)
	return []trial{
		{name: "extents", needs: reads, of: blocks, body: extents},
		{name: "extents-changed", needs: changed, of: blocks, body: extentsChanged},
		{name: "extents-gone", needs: reads, of: blocks, body: extentsGone},
		{name: "read", needs: reads, of: blocks, body: readExactly},
		{name: "read-parts", needs: reads, of: blocks, body: readParts},
		{name: "read-refuses", needs: reads, of: blocks, body: readRefuses},
	}
}

// list collects extents and holds them to their form.
func (c *scope) list(p providers.Provider, r providers.ExtentsRequest, size int64) []providers.Extent {
	var all []providers.Extent
	var end int64
	err := p.Extents(c.ctx, r, func(some []providers.Extent) error {
		if len(some) == 0 || len(some) > providers.MaxExtents {
			c.Errorf("%d extents at once; there are 1 to %d", len(some), providers.MaxExtents)
		}
		for _, e := range some {
			if e.Offset < end || e.Length <= 0 || e.Length > size-e.Offset {
				c.Errorf("extent %d+%d after %d: extents ascend, don't overlap, and lie within %d bytes", e.Offset, e.Length, end, size)
				return errStop
			}
			end = e.End()
		}
		all = append(all, some...)
		return nil
	})
	if !errors.Is(err, errStop) {
		c.must("list extents", err)
	}
	return all
}

// covered expects that a picture with the extents' stretches taken from another one is that other one, and
// that what is called zero is.
func (c *scope) covered(what string, from, to picture, all []providers.Extent) {
	got := from.clone()
	for _, e := range all {
		if e.End() > to.size {
			return // reported already
		}
		for at := e.Offset; at < e.End(); at += pieceSize { // an extent may be the whole volume
			part := providers.Extent{Offset: at, Length: min(pieceSize, e.End()-at)}
			if to.blank(part) {
				got.set(part, nil)
			} else {
				got.set(part, to.bytes(part))
			}
		}
		if e.Zero && !to.blank(e) {
			c.Errorf("%s: extent %d+%d is said to be zeros, and holds data", what, e.Offset, e.Length)
		}
	}
	if at := differs(got, to); at >= 0 {
		c.Errorf("%s: byte %d is in none of the %d extents", what, at, len(all))
	}
}

func extents(c *scope) {
	f := c.fixture()
	zeros := blankPicture(f.before.size)
	c.covered("what holds data", zeros, f.before, c.list(c.provider, providers.ExtentsRequest{Snapshot: f.base.Handle}, f.base.Size))
	c.covered("what holds data now", zeros, f.after, c.list(c.other(), providers.ExtentsRequest{Snapshot: f.snapshot.Handle}, f.snapshot.Size))
	err := c.provider.Extents(c.ctx, providers.ExtentsRequest{Snapshot: f.base.Handle}, func([]providers.Extent) error { return errStop })
	if !errors.Is(err, errStop) {
		c.Errorf("list extents: an error of the callback became %v", err)
	}
	if !c.info.Can(providers.CapChanged) {
		err := c.provider.Extents(c.ctx, providers.ExtentsRequest{Snapshot: f.snapshot.Handle, Base: f.base.Handle}, func([]providers.Extent) error { return nil })
		c.refused("extents with a base, which the provider does not claim", err, fault.Unsupported)
	}
}

func extentsChanged(c *scope) {
	f := c.fixture()
	if !f.changed {
		c.Skipf("no way to change a live volume: the provider does not claim %q, and there is no Fill in the suite's configuration", providers.CapOverwrite)
	}
	r := providers.ExtentsRequest{Snapshot: f.snapshot.Handle, Base: f.base.Handle}
	for _, p := range []providers.Provider{c.provider, c.other()} {
		all := c.list(p, r, f.snapshot.Size)
		c.covered("what has changed", f.before, f.after, all)
		got := f.before.clone()
		if len(all) > 0 && c.read(p, f.snapshot.Handle, all, got) {
			if at := differs(got, f.after); at >= 0 {
				c.Errorf("the base and what has changed give another content than the snapshot at byte %d", at)
			}
		}
	}
}

func extentsGone(c *scope) {
	f := c.fixture()
	lost := c.snapshot(c.provider, f.volume)
	c.must("delete the snapshot", c.provider.DeleteSnapshot(c.ctx, lost.Handle))
	ignore := func([]providers.Extent) error { return nil }
	for _, p := range []providers.Provider{c.provider, c.other()} {
		err := p.Extents(c.ctx, providers.ExtentsRequest{Snapshot: lost.Handle}, ignore)
		c.refused("extents of a deleted snapshot", err, fault.NotFound)
		err = p.Read(c.ctx, providers.ReadRequest{Snapshot: lost.Handle, Extents: []providers.Extent{{Length: c.up(1)}}}, func(providers.Block) error { return nil })
		c.refused("read a deleted snapshot", err, fault.NotFound)
		if c.info.Can(providers.CapChanged) {
			err = p.Extents(c.ctx, providers.ExtentsRequest{Snapshot: f.snapshot.Handle, Base: lost.Handle}, ignore)
			c.refused("extents with a deleted base", err, fault.NotFound)
		}
	}
}

func readExactly(c *scope) {
	f := c.fixture()
	c.holds(c.provider, f.base.Handle, f.before)
	other := c.other()
	c.holds(other, f.snapshot.Handle, f.after)
	got := blankPicture(f.after.size)
	all := c.list(other, providers.ExtentsRequest{Snapshot: f.snapshot.Handle}, f.snapshot.Size)
	if c.read(other, f.snapshot.Handle, all, got) {
		if at := differs(got, f.after); at >= 0 {
			c.Errorf("what holds data, read, differs from the content at byte %d", at)
		}
	}
}

func readParts(c *scope) {
	f := c.fixture()
	size, a := f.base.Size, c.config.Align
	half := c.up(size / 2)
	unit := c.up(1)
	parts := []providers.Extent{
		{Offset: 3 * a, Length: 5 * unit},
		{Offset: 3*a + 5*unit, Length: unit}, // adjacent
		{Offset: c.up(4*pieceSize) + a, Length: c.up(3 * pieceSize)},
		{Offset: half - unit, Length: c.up(2 * pieceSize)},
		{Offset: size - unit, Length: unit},
	}
	parts = slices.DeleteFunc(parts, func(e providers.Extent) bool { return e.End() > size })
	var ascending []providers.Extent
	for _, e := range parts {
		if len(ascending) == 0 || e.Offset >= ascending[len(ascending)-1].End() {
			ascending = append(ascending, e)
		}
	}
	got := blankPicture(size)
	if !c.read(c.provider, f.base.Handle, ascending, got) {
		return
	}
	for _, e := range ascending {
		if !bytes.Equal(got.bytes(e), f.before.bytes(e)) {
			c.Errorf("extent %d+%d differs from the content", e.Offset, e.Length)
		}
	}
	err := c.provider.Read(c.ctx, providers.ReadRequest{Snapshot: f.base.Handle}, func(providers.Block) error {
		c.Errorf("read of no extents gave a block")
		return nil
	})
	c.must("read no extents", err)
	err = c.provider.Read(c.ctx, providers.ReadRequest{Snapshot: f.base.Handle, Extents: ascending}, func(providers.Block) error { return errStop })
	if !errors.Is(err, errStop) {
		c.Errorf("read: an error of the callback became %v", err)
	}
}

func readRefuses(c *scope) {
	f := c.fixture()
	unit := c.up(1)
	for name, wrong := range map[string][]providers.Extent{
		"beyond the end":   {{Offset: f.base.Size, Length: unit}},
		"over the end":     {{Offset: f.base.Size - unit, Length: 2 * unit}},
		"before the start": {{Offset: -unit, Length: unit}},
		"descending":       {{Offset: 4 * unit, Length: unit}, {Offset: 0, Length: unit}},
		"overlapping":      {{Offset: 0, Length: 2 * unit}, {Offset: unit, Length: unit}},
		"of no length":     {{Offset: 0, Length: 0}},
	} {
		err := c.provider.Read(c.ctx, providers.ReadRequest{Snapshot: f.base.Handle, Extents: wrong}, func(providers.Block) error { return nil })
		c.refused("read extents "+name, err, fault.Invalid)
	}
}
