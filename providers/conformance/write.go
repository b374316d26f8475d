package conformance

import (
	"io"
	"slices"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func writeCases() []trial {
	writes := needs(providers.CapWrite)
	return []trial{
		{name: "write", needs: writes, of: blocks, body: writeExactly},
		{name: "write-again", needs: writes, of: blocks, body: writeAgain},
		{name: "write-refuses", needs: writes, of: blocks, body: writeRefuses},
		{name: "write-aborted", needs: writes, of: blocks, body: writeAborted},
		{name: "overwrite", needs: writes, of: blocks, body: overwrite},
		{name: "overwrite-aborted", needs: needs(providers.CapOverwrite), of: blocks, body: overwriteAborted},
	}
}

func of(all ...providers.Block) providers.Source {
	return func() (providers.Block, error) {
		if len(all) == 0 {
			return providers.Block{}, io.EOF
		}
		next := all[0]
		all = all[1:]
		return next, nil
	}
}

// filled is a block of data of one unit of the alignment.
func (c *scope) filled(offset int64) providers.Block {
	data := make([]byte, c.up(512))
	for i := range data {
		data[i] = 7
	}
	return providers.NewBlock(offset, data)
}

func writeExactly(c *scope) {
	content := c.picture(300)
	r := c.request()
	v, err := c.write(c.ctx, c.provider, r, content)
	c.must("write a volume", err)
	c.looksRight(v, r)
	other := c.other()
	again, err := other.Volume(c.ctx, v.Handle)
	c.must("describe the volume from another client", err)
	c.looksRight(again, r)
	c.volumeHolds(other, v, content)

	r = c.request()
	v, err = c.provider.Write(c.ctx, providers.WriteRequest{CreateRequest: r}, of())
	c.must("write a volume of zeros", err)
	c.keepVolume(v)
	c.looksRight(v, r)
	c.volumeHolds(c.provider, v, blankPicture(c.config.Size))
	c.expectVolumes(other, 2)
}

func writeAgain(c *scope) {
	content := c.picture(310)
	r := c.request()
	first, err := c.write(c.ctx, c.provider, r, content)
	c.must("write a volume", err)
	other := c.other()
	again, err := c.write(c.ctx, other, r, content)
	c.must("write it again from another client", err)
	c.same(first, again)
	c.expectVolumes(other, 1)
	different := r
	different.Size *= 2
	_, err = c.write(c.ctx, other, different, content)
	c.refused("the same token for a different size", err, fault.Exists)

	r = c.request()
	clients := []providers.Provider{c.provider, other}
	ids := c.together(4, func(i int) (string, error) {
		v, err := c.write(c.ctx, clients[i%2], r, content)
		if err != nil && fault.KindOf(err).Retryable() {
			return first.ID, nil // one of them holds it; the others may be told so
		}
		return v.ID, err
	})
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == first.ID })
	if len(ids) > 1 {
		c.Errorf("the same token at once gave the volumes %q; expected one", ids)
	}
	last, err := c.write(c.ctx, other, r, content)
	c.must("write it again", err)
	c.volumeHolds(other, last, content)
	c.expectVolumes(c.provider, 2)
}

func writeRefuses(c *scope) {
	content := c.picture(320)
	unit := c.filled(0).Length
	damaged := c.filled(0)
	damaged.CRC ^= 1
	torn := c.filled(0)
	torn.Data = torn.Data[:len(torn.Data)-1]
	want := 0
	for _, try := range []struct {
		name   string
		source providers.Source
		kinds  []fault.Kind
	}{
		{"blocks that descend", of(c.filled(4*unit), c.filled(0)), []fault.Kind{fault.Invalid}},
		{"the same block twice", of(c.filled(unit), c.filled(unit)), []fault.Kind{fault.Invalid}},
		{"blocks that overlap", of(providers.ZeroBlock(0, 3*unit), c.filled(2*unit)), []fault.Kind{fault.Invalid}},
		{"more than the size", of(c.filled(0), c.filled(c.config.Size)), []fault.Kind{fault.Invalid}},
		{"zeros beyond the size", of(providers.ZeroBlock(0, c.config.Size+unit)), []fault.Kind{fault.Invalid}},
		{"a block before the start", of(c.filled(-unit)), []fault.Kind{fault.Invalid}},
		{"a damaged block", of(damaged), []fault.Kind{fault.Corrupt}},
		{"a block whose data is shorter than it says", of(torn), []fault.Kind{fault.Corrupt, fault.Invalid}},
	} {
		r := c.request()
		_, err := c.provider.Write(c.ctx, providers.WriteRequest{CreateRequest: r}, try.source)
		c.refused("write "+try.name, err, try.kinds...)
		c.expectVolumes(c.provider, want)
		if want > 0 {
			continue // one is enough to see that the token still works
		}
		v, err := c.write(c.ctx, c.other(), r, content)
		c.must("write by the same token what is right", err)
		c.volumeHolds(c.provider, v, content)
		want++
	}
	r := c.request()
	r.Parameters = map[string]string{"no-such-parameter": "1"}
	_, err := c.write(c.ctx, c.provider, r, content)
	c.refused("write with an unknown parameter", err, fault.Invalid)
	c.expectVolumes(c.provider, want)
}

// failing is a source that ends in an error after some blocks.
func (c *scope) failing(content picture, after int, err error) providers.Source {
	good := c.source(content)
	return func() (providers.Block, error) {
		if after--; after < 0 {
			return providers.Block{}, err
		}
		return good()
	}
}

func writeAborted(c *scope) {
	content := c.picture(330)
	r := c.request()
	broken := fault.Newf("read repository", fault.Corrupt, "pack", "made on purpose")
	for after := range 4 {
		_, err := c.provider.Write(c.ctx, providers.WriteRequest{CreateRequest: r}, c.failing(c.picture(331), after, broken))
		c.refused("write from a source that fails", err, fault.Corrupt)
		c.expectVolumes(c.provider, 0)
	}
	other := c.other()
	v, err := c.write(c.ctx, other, r, content)
	c.must("write again by the same token", err)
	c.looksRight(v, r)
	c.volumeHolds(other, v, content)
	c.expectVolumes(c.provider, 1)
}

func overwrite(c *scope) {
	before := c.picture(340)
	v := c.painted(before)
	r := c.request()
	r.Size = v.Size
	after, _ := c.repaint(c.picture(345), 348)
	got, err := c.provider.Write(c.ctx, providers.WriteRequest{CreateRequest: r, Into: v.Handle}, c.source(after))
	if !c.info.Can(providers.CapOverwrite) {
		c.refused("write into a volume, which the provider does not claim", err, fault.Unsupported)
		c.volumeHolds(c.provider, v, before)
		return
	}
	c.must("write into a volume", err)
	c.same(v, got)
	other := c.other()
	c.volumeHolds(other, v, after)
	got, err = other.Write(c.ctx, providers.WriteRequest{CreateRequest: r, Into: v.Handle}, c.source(after))
	c.must("write into it again by the same token", err)
	c.same(v, got)
	c.volumeHolds(other, v, after)
	c.expectVolumes(other, 1)
	c.overwriteGone(r)
}

func (c *scope) overwriteGone(r providers.CreateRequest) {
	lost := c.empty()
	c.must("delete the volume", c.provider.DeleteVolume(c.ctx, lost.Handle))
	r.Token = c.token()
	_, err := c.provider.Write(c.ctx, providers.WriteRequest{CreateRequest: r, Into: lost.Handle}, of(c.filled(0)))
	c.refused("write into a volume that is gone", err, fault.NotFound)
	c.expectVolumes(c.provider, 1)
}

// overwriteAborted repeats what was cut off: the volume then holds the new content and nothing else.
func overwriteAborted(c *scope) {
	v := c.painted(c.picture(350))
	after := c.picture(360)
	r := c.request()
	r.Size = v.Size
	broken := fault.Newf("read repository", fault.Transient, "pack", "made on purpose")
	_, err := c.provider.Write(c.ctx, providers.WriteRequest{CreateRequest: r, Into: v.Handle}, c.failing(c.picture(361), 3, broken))
	c.refused("write into a volume from a source that fails", err, fault.Transient)
	other := c.other()
	_, err = other.Write(c.ctx, providers.WriteRequest{CreateRequest: r, Into: v.Handle}, c.source(after))
	c.must("write into it again by the same token", err)
	c.volumeHolds(other, v, after)
	c.expectVolumes(other, 1)
}
