package conformance

import (
	"errors"
	"slices"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func snapshotCases() []trial {
	snapshots := needs(providers.CapSnapshot)
	return []trial{
		{name: "snapshot", needs: snapshots, of: both, body: snapshot},
		{name: "snapshot-again", needs: snapshots, of: both, body: snapshotAgain},
		{name: "snapshot-list", needs: snapshots, of: both, body: listSnapshots},
		{name: "snapshot-delete", needs: snapshots, of: both, body: deleteSnapshot},
		{name: "snapshot-several", needs: snapshots, of: both, body: snapshotSeveral},
		{name: "snapshot-all-or-none", needs: snapshots, of: both, body: allOrNone},
		{name: "snapshot-group", needs: snapshots, of: both, body: snapshotGroup},
		{name: "snapshot-frozen", needs: needs(providers.CapSnapshot, providers.CapRead), of: blocks, body: snapshotFrozen},
		{name: "snapshot-one-instant", needs: needs(providers.CapGroup, providers.CapRead), of: blocks, body: oneInstant},
	}
}

func snapshot(c *scope) {
	v := c.empty()
	before, err := c.provider.Health(c.ctx)
	c.must("health", err)
	r := providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{v.Handle}, Tags: c.tags()}
	set := c.take(c.provider, r)
	after, err := c.provider.Health(c.ctx)
	c.must("health", err)
	n := set.Snapshots[0]
	c.snapshotLooksRight(n, v, r)
	if n.Instant.Before(before.Now.Add(-time.Minute)) || n.Instant.After(after.Now.Add(time.Minute)) {
		c.Errorf("the snapshot is of %v; by the backend's clock it was taken between %v and %v", n.Instant, before.Now, after.Now)
	}
	again, err := c.other().SnapshotOf(c.ctx, n.Handle)
	c.must("describe the snapshot from another client", err)
	c.snapshotLooksRight(again, v, r)
	if again.ID != n.ID || !again.Instant.Equal(n.Instant) {
		c.Errorf("another client knows %q of %v, not %q of %v", again.ID, again.Instant, n.ID, n.Instant)
	}
}

// take takes snapshots and holds the answer to its form.
func (c *scope) take(p providers.Provider, r providers.SnapshotRequest) providers.SnapshotSet {
	set, err := p.Snapshot(c.ctx, r)
	c.must("take snapshots", err)
	for _, n := range set.Snapshots {
		c.keepSnapshot(n)
	}
	if len(set.Snapshots) != len(r.Volumes) {
		c.Fatalf("%d snapshots of %d volumes", len(set.Snapshots), len(r.Volumes))
	}
	if set.Atomic && set.Skew != 0 || set.Skew < 0 {
		c.Errorf("atomic is %v and the skew %v", set.Atomic, set.Skew)
	}
	return set
}

func (c *scope) snapshotLooksRight(n providers.Snapshot, v providers.Volume, r providers.SnapshotRequest) {
	c.handleIsSane(n.Handle)
	if n.ID == "" || n.VolumeID != v.ID || n.Content != v.Content {
		c.Errorf("snapshot %q is of volume %q and holds %q; expected %q and %q", n.ID, n.VolumeID, n.Content, v.ID, v.Content)
	}
	if n.Size != v.Size {
		c.Errorf("the snapshot has %d bytes, its volume %d", n.Size, v.Size)
	}
	if n.Instant.IsZero() {
		c.Errorf("the snapshot has no instant")
	}
	c.tagged(n.Tags, r.Tags, r.Token)
}

func snapshotAgain(c *scope) {
	v, other := c.empty(), c.empty()
	r := providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{v.Handle}, Tags: c.tags()}
	first := c.take(c.provider, r).Snapshots[0]
	second := c.other()
	for _, p := range []providers.Provider{c.provider, second} {
		again := c.take(p, r).Snapshots[0]
		if again.ID != first.ID || !again.Instant.Equal(first.Instant) {
			c.Errorf("the same token gave %q of %v and %q of %v", first.ID, first.Instant, again.ID, again.Instant)
		}
	}
	c.expectSnapshots(c.provider, 1)
	different := r
	different.Volumes = []providers.Handle{other.Handle}
	_, err := c.provider.Snapshot(c.ctx, different)
	c.refused("the same token for another volume", err, fault.Exists)
	c.expectSnapshots(c.provider, 1)

	r.Token = c.token()
	clients := []providers.Provider{c.provider, second}
	ids := c.together(8, func(i int) (string, error) {
		set, err := clients[i%2].Snapshot(c.ctx, r)
		for retry := 0; err != nil && fault.KindOf(err).Retryable() && retry < 5; retry++ {
			set, err = clients[i%2].Snapshot(c.ctx, r)
		}
		if err != nil || len(set.Snapshots) != 1 {
			return "", err
		}
		return set.Snapshots[0].ID, nil
	})
	if len(ids) != 1 {
		c.Errorf("the same token at once gave the snapshots %q; expected one", ids)
	}
	c.expectSnapshots(second, 2)
}

func listSnapshots(c *scope) {
	v, w := c.empty(), c.empty()
	a, b := c.snapshot(c.provider, v), c.snapshot(c.provider, w)
	for _, try := range []struct {
		name  string
		query providers.Query
		want  []string
	}{
		{"by the tags of both", providers.Query{Tags: c.tags()}, []string{a.ID, b.ID}},
		{"by any value of a tag", providers.Query{Tags: map[string]string{providers.TagRun: "*", providers.TagStep: c.name, providers.TagToken: a.Tags[providers.TagToken]}}, []string{a.ID}},
		{"by a value that none has", providers.Query{Tags: map[string]string{providers.TagRun: c.config.Run, providers.TagStep: "none"}}, nil},
		{"by its volume's ID", providers.Query{IDs: []string{w.ID}, Tags: c.tags()}, []string{b.ID}},
		{"by an ID that none has", providers.Query{IDs: []string{"muster-no-such-volume"}, Tags: c.tags()}, nil},
	} {
		var got []string
		err := c.other().ListSnapshots(c.ctx, try.query, func(n providers.Snapshot) error {
			got = append(got, n.ID)
			return nil
		})
		c.must("list snapshots "+try.name, err)
		slices.Sort(got)
		slices.Sort(try.want)
		if !slices.Equal(got, try.want) {
			c.Errorf("list snapshots %s: %q; expected %q", try.name, got, try.want)
		}
	}
	err := c.provider.ListSnapshots(c.ctx, providers.Query{Tags: c.tags()}, func(providers.Snapshot) error { return errStop })
	if !errors.Is(err, errStop) {
		c.Errorf("list snapshots: an error of the callback became %v", err)
	}
}

func deleteSnapshot(c *scope) {
	v := c.empty()
	a, b := c.snapshot(c.provider, v), c.snapshot(c.provider, v)
	second := c.other()
	c.must("delete the snapshot", c.provider.DeleteSnapshot(c.ctx, a.Handle))
	c.must("delete it again", c.provider.DeleteSnapshot(c.ctx, a.Handle))
	c.must("delete it again from another client", second.DeleteSnapshot(c.ctx, a.Handle))
	_, err := second.SnapshotOf(c.ctx, a.Handle)
	c.refused("describe a deleted snapshot", err, fault.NotFound)
	_, err = second.SnapshotOf(c.ctx, b.Handle)
	c.must("describe the volume's other snapshot", err)
	c.expectSnapshots(c.provider, 1)
	_, err = second.Volume(c.ctx, v.Handle)
	c.must("describe the volume", err)
}

func snapshotSeveral(c *scope) {
	volumes := c.several(3)
	slices.Reverse(volumes)
	r := providers.SnapshotRequest{Token: c.token(), Tags: c.tags()}
	for _, v := range volumes {
		r.Volumes = append(r.Volumes, v.Handle)
	}
	set := c.take(c.provider, r)
	for i, n := range set.Snapshots {
		c.snapshotLooksRight(n, volumes[i], r)
	}
	again := c.take(c.other(), r)
	for i, n := range again.Snapshots {
		if n.ID != set.Snapshots[i].ID {
			c.Errorf("the same token gave as number %d the snapshots %q and %q", i, set.Snapshots[i].ID, n.ID)
		}
	}
	if set.Atomic != again.Atomic || set.Skew != again.Skew {
		c.Errorf("the same token gave atomic %v, skew %v and atomic %v, skew %v", set.Atomic, set.Skew, again.Atomic, again.Skew)
	}
	c.expectSnapshots(c.provider, len(volumes))
}

// allOrNone asks for snapshots of volumes of which one is gone.
func allOrNone(c *scope) {
	if !c.makes() {
		c.Skipf("the provider makes no volumes of %s", c.content)
	}
	a, b, lost := c.empty(), c.empty(), c.empty()
	c.must("delete a volume", c.provider.DeleteVolume(c.ctx, lost.Handle))
	r := providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{a.Handle, lost.Handle, b.Handle}, Tags: c.tags()}
	_, err := c.provider.Snapshot(c.ctx, r)
	c.refused("snapshot volumes of which one is gone", err, fault.NotFound)
	c.expectSnapshots(c.other(), 0)
}

// snapshotGroup demands one instant.
func snapshotGroup(c *scope) {
	volumes := c.several(2)
	r := providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{volumes[0].Handle, volumes[1].Handle}, Tags: c.tags(), Atomic: true}
	// Of two contents, a backend may have groups of the first alone.
	if !c.info.Can(providers.CapGroup) || c.content != c.contents()[0] {
		set, err := c.provider.Snapshot(c.ctx, r)
		for _, n := range set.Snapshots {
			c.keepSnapshot(n)
		}
		if err == nil && set.Atomic && c.info.Can(providers.CapGroup) {
			return
		}
		c.refused("snapshots of one instant, which the provider does not claim", err, fault.Unsupported)
		c.expectSnapshots(c.provider, 0)
		return
	}
	set := c.take(c.provider, r)
	if !set.Atomic {
		c.Errorf("snapshots of one instant were demanded, and the answer says that they are not")
	}
	if again := c.take(c.other(), r); again.Snapshots[1].ID != set.Snapshots[1].ID {
		c.Errorf("the same token gave %q and %q", set.Snapshots[1].ID, again.Snapshots[1].ID)
	}
	c.expectSnapshots(c.provider, 2)
}

func snapshotFrozen(c *scope) {
	before := c.picture(1)
	v := c.painted(before)
	first := c.snapshot(c.provider, v)
	c.holds(c.provider, first.Handle, before)
	if !c.changeable() {
		c.Logf("no way to change a live volume: %q and Fill are missing", providers.CapOverwrite)
		return
	}
	after, written := c.repaint(before, 50)
	c.become(v, before, after, written)
	second := c.snapshot(c.provider, v)
	other := c.other()
	c.holds(other, first.Handle, before)
	c.holds(other, second.Handle, after)
}

// oneInstant has an application write to two volumes in turn: a snapshot of the second must never be ahead of
// that of the first, nor more than one write behind.
func oneInstant(c *scope) {
	if !c.changeable() {
		c.Skipf("no way to change a live volume: the provider does not claim %q, and there is no Fill in the suite's configuration", providers.CapOverwrite)
	}
	volumes := c.several(2)
	first := make(chan struct{})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go c.writeInTurn(volumes, first, stop, stopped)
	end := func() {
		close(stop)
		<-stopped
	}
	defer end()
	select {
	case <-first:
	case <-stopped:
		c.Fatalf("the application could not write")
	}
	for range 3 {
		r := providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{volumes[0].Handle, volumes[1].Handle}, Tags: c.tags(), Atomic: true}
		set := c.take(c.provider, r)
		a, b := c.counter(set.Snapshots[0]), c.counter(set.Snapshots[1])
		if b > a || a > b+1 {
			c.Errorf("the snapshots are not of one instant: the application wrote to two volumes in turn, and they show its writes %d and %d", a, b)
		}
	}
}

func (c *scope) writeInTurn(volumes []providers.Volume, first chan<- struct{}, stop <-chan struct{}, stopped chan<- struct{}) {
	defer close(stopped)
	before, unit := blankPicture(c.config.Size), providers.Extent{Length: c.up(1)}
	for i := 1; i < 250; i++ {
		after, data := blankPicture(c.config.Size), make([]byte, unit.Length)
		data[0] = byte(i)
		after.set(unit, data)
		for _, v := range volumes {
			select {
			case <-stop:
				return
			default:
			}
			if err := c.tryBecome(c.ctx, v, before, after, []providers.Extent{unit}); err != nil {
				c.Errorf("change a live volume: %v", err)
				return
			}
		}
		if i == 1 {
			close(first)
		}
		before = after
	}
	<-stop
}

// counter is the last write that a snapshot shows.
func (c *scope) counter(n providers.Snapshot) int {
	n = c.ready(c.provider, n)
	into, unit := blankPicture(c.config.Size), providers.Extent{Length: c.up(1)}
	c.read(c.provider, n.Handle, []providers.Extent{unit}, into)
	return int(into.bytes(unit)[0])
}
