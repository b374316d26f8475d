package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/musterdr/muster/providers"
)

// errStop is what cases return from callbacks.
var errStop = errors.New("the suite has seen enough")

// Logf tells something that is no failure.
func (c *scope) Logf(format string, args ...any) {
	c.report(func() { c.t.Logf(format, args...) })
}

// request is one for a volume of the case's content.
func (c *scope) request() providers.CreateRequest {
	token := c.token()
	r := providers.CreateRequest{
		Token: token, Name: token, Content: c.content, Size: c.config.Size, Zone: c.config.Zone,
		Tags: c.tags(), Parameters: maps.Clone(c.config.Parameters[c.content]),
	}
	return r
}

// remember adds a handle that is not there yet.
func remember(all []providers.Handle, h providers.Handle) []providers.Handle {
	if slices.ContainsFunc(all, func(known providers.Handle) bool { return bytes.Equal(known.State, h.State) }) {
		return all
	}
	return append(all, h)
}

// keepVolume remembers what must be removed.
func (c *scope) keepVolume(v providers.Volume) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.volumes = remember(c.volumes, v.Handle)
}

func (c *scope) keepSnapshot(n providers.Snapshot) providers.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshots = remember(c.snapshots, n.Handle)
	return n
}

func (c *scope) keepMount(a providers.Attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mounts = remember(c.mounts, a.Handle)
}

func (c *scope) keepMachine(m providers.Machine) providers.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.machines = remember(c.machines, m.Handle)
	return m
}

// write makes a volume with a content.
func (c *scope) write(ctx context.Context, p providers.Provider, r providers.CreateRequest, content picture) (providers.Volume, error) {
	v, err := p.Write(ctx, providers.WriteRequest{CreateRequest: r}, c.source(content))
	if err == nil {
		c.keepVolume(v)
	}
	return v, err
}

// empty makes a volume by whatever the provider has: Create, Write, or the configuration's Volumes.
func (c *scope) empty() providers.Volume { return c.several(1)[0] }

// several makes volumes that can be snapshotted together.
func (c *scope) several(n int) []providers.Volume {
	if c.config.Volumes != nil && (n > 1 || !c.makes()) {
		all, err := c.config.Volumes(c.ctx, c.content, n)
		c.must("make volumes by the backend's own means", err)
		return all
	}
	if !c.makes() {
		c.Skipf("the provider makes no volumes of %s, and there is no Volumes in the suite's configuration", c.content)
	}
	var all []providers.Volume
	for range n {
		all = append(all, c.create(c.provider, c.request()))
	}
	return all
}

// makes reports whether the provider makes volumes of the case's content.
func (c *scope) makes() bool {
	return c.info.Can(providers.CapCreate) || c.content == providers.ContentBlocks && c.info.Can(providers.CapWrite)
}

// create makes an empty volume.
func (c *scope) create(p providers.Provider, r providers.CreateRequest) providers.Volume {
	v, err := c.tryCreate(c.ctx, p, r)
	c.must("make a volume", err)
	return v
}

func (c *scope) tryCreate(ctx context.Context, p providers.Provider, r providers.CreateRequest) (providers.Volume, error) {
	var v providers.Volume
	var err error
	if c.info.Can(providers.CapCreate) {
		v, err = p.Create(ctx, r)
	} else {
		v, err = p.Write(ctx, providers.WriteRequest{CreateRequest: r}, func() (providers.Block, error) { return providers.Block{}, io.EOF })
	}
	if err == nil {
		c.keepVolume(v)
	}
	return v, err
}

// painted makes a block volume with a content.
func (c *scope) painted(content picture) providers.Volume {
	if c.info.Can(providers.CapWrite) {
		v, err := c.write(c.ctx, c.provider, c.request(), content)
		c.must("write a volume", err)
		return v
	}
	if !c.changeable() {
		c.Skipf("no way to put data into a volume: the provider does not claim %q, and there is no Fill in the suite's configuration", providers.CapWrite)
	}
	v := c.empty()
	c.become(v, blankPicture(content.size), content, nil)
	return v
}

// changeable reports whether live volumes can be written.
func (c *scope) changeable() bool {
	return c.config.Fill != nil || c.info.Can(providers.CapOverwrite)
}

// become changes a live volume from one content to another, of which written are the stretches that differ;
// nil: wherever there is data.
func (c *scope) become(v providers.Volume, before, after picture, written []providers.Extent) {
	c.must("change a live volume", c.tryBecome(c.ctx, v, before, after, written))
}

func (c *scope) tryBecome(ctx context.Context, v providers.Volume, before, after picture, written []providers.Extent) error {
	if c.config.Fill == nil {
		r := c.request()
		r.Size = v.Size
		_, err := c.provider.Write(ctx, providers.WriteRequest{CreateRequest: r, Into: v.Handle}, c.source(after))
		return err
	}
	if written == nil {
		written = c.pieces(before, after)
	}
	for _, e := range written {
		if err := c.config.Fill(ctx, v, e.Offset, after.bytes(e)); err != nil {
			return err
		}
	}
	return nil
}

// pieces are the stretches of equal steps in which two pictures differ.
func (c *scope) pieces(a, b picture) []providers.Extent {
	var all []providers.Extent
	step := c.up(pieceSize)
	for at := int64(0); at < a.size; at += step {
		e := providers.Extent{Offset: at, Length: min(step, a.size-at)}
		if (!a.blank(e) || !b.blank(e)) && !bytes.Equal(a.bytes(e), b.bytes(e)) {
			all = append(all, e)
		}
	}
	return all
}

// snapshot takes one and waits until it is ready.
func (c *scope) snapshot(p providers.Provider, v providers.Volume) providers.Snapshot {
	set, err := p.Snapshot(c.ctx, providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{v.Handle}, Tags: c.tags()})
	c.must("take a snapshot", err)
	if len(set.Snapshots) != 1 {
		c.Fatalf("take a snapshot: %d snapshots of one volume", len(set.Snapshots))
	}
	return c.ready(p, c.keepSnapshot(set.Snapshots[0]))
}

// ready waits until a snapshot is.
func (c *scope) ready(p providers.Provider, n providers.Snapshot) providers.Snapshot {
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for !n.Ready {
		select {
		case <-pause.C:
		case <-c.ctx.Done():
			c.Fatalf("snapshot %s did not become ready", n.ID)
		}
		var err error
		n, err = p.SnapshotOf(c.ctx, n.Handle)
		c.must("describe a snapshot", err)
	}
	return n
}

// countVolumes counts what carries the case's tags; -1 when the provider cannot tell.
func (c *scope) countVolumes(p providers.Provider) int {
	if !c.info.Can(providers.CapDiscover) {
		return -1
	}
	n := 0
	err := p.Discover(c.ctx, providers.Query{Tags: c.tags()}, func(v providers.Volume) error {
		n++
		c.keepVolume(v)
		return nil
	})
	c.must("discover volumes", err)
	return n
}

// countSnapshots counts what carries the case's tags.
func (c *scope) countSnapshots(p providers.Provider) int {
	n := 0
	err := p.ListSnapshots(c.ctx, providers.Query{Tags: c.tags()}, func(s providers.Snapshot) error {
		n++
		c.keepSnapshot(s)
		return nil
	})
	c.must("list snapshots", err)
	return n
}

// expectVolumes says how many volumes there must be.
func (c *scope) expectVolumes(p providers.Provider, want int) {
	if got := c.countVolumes(p); got >= 0 && got != want {
		c.Errorf("%d volumes carry the case's tags; expected %d", got, want)
	}
}

// expectSnapshots says how many snapshots there must be.
func (c *scope) expectSnapshots(p providers.Provider, want int) {
	if got := c.countSnapshots(p); got != want {
		c.Errorf("%d snapshots carry the case's tags; expected %d", got, want)
	}
}
