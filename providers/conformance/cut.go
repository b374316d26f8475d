package conformance

import (
	"context"
	"errors"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func cutCases() []trial {
	all := []trial{
		{name: "at-once", needs: needs(providers.CapSnapshot), of: both, body: atOnce},
		{name: "write-cancelled", needs: needs(providers.CapWrite), of: blocks, body: writeCancelled},
		{name: "read-cancelled", needs: needs(providers.CapSnapshot, providers.CapRead), of: blocks, body: readCancelled},
	}
	for _, j := range jobs() {
		all = append(all, trial{name: "cancelled-" + j.name, needs: j.needs, body: j.cancelled})
	}
	for _, j := range jobs() {
		all = append(all, trial{name: "killed-" + j.name, needs: j.needs, body: j.killed, alone: true})
	}
	return all
}

// start chooses the content that the job works on.
func (j job) start(c *scope) func() try {
	c.content = j.of
	if c.content == "" {
		c.content = c.contents()[0]
	}
	return j.prepare(c)
}

// cancelled ends a call's context after different times, repeats the call, and looks at the result.
func (j job) cancelled(c *scope) {
	next := j.start(c)
	for _, after := range append([]time.Duration{-1}, c.config.KillAfter...) {
		t := next()
		c.cancel(j.name, t, after)
		c.must(j.name+", repeated after it was cancelled", c.insist(c.provider, t))
		t.check(c.provider)
	}
}

// cancel calls and cancels; a negative time cancels before the call.
func (c *scope) cancel(name string, t try, after time.Duration) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if after < 0 {
		cancel()
	}
	done := make(chan error, 1)
	go func() { done <- t.call(ctx, c.provider) }()
	if after >= 0 {
		select {
		case err := <-done: // faster than that
			c.must(name, err)
			return
		case <-time.After(after):
			cancel()
		}
	}
	select {
	case <-done:
	case <-time.After(c.config.Soon):
		c.Fatalf("%s: it goes on %v after its context was cancelled", name, c.config.Soon)
	}
}

// soon expects a call to end.
func (c *scope) soon(op string, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(c.config.Soon):
		c.Fatalf("%s: it goes on after %v", op, c.config.Soon)
		return nil
	}
}

// writeCancelled cancels when the first blocks are on their way: no volume may come of it.
func writeCancelled(c *scope) {
	content := c.picture(700)
	r := c.request()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	good, given := c.source(content), 0
	err := c.soon("write, cancelled by its source", func() error {
		_, err := c.provider.Write(ctx, providers.WriteRequest{CreateRequest: r}, func() (providers.Block, error) {
			if given++; given == 3 {
				cancel()
			}
			return good()
		})
		return err
	})
	if err == nil {
		c.Errorf("a write that was cancelled by its third block went through")
	}
	c.expectVolumes(c.provider, 0)
	v, err := c.write(c.ctx, c.provider, r, content)
	c.must("write again by the same token", err)
	c.volumeHolds(c.provider, v, content)
	c.expectVolumes(c.provider, 1)
}

// readCancelled cancels by the first block and by the first extents.
func readCancelled(c *scope) {
	f := c.fixture()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	_ = c.soon("read, cancelled by its first block", func() error {
		return c.provider.Read(ctx, providers.ReadRequest{Snapshot: f.base.Handle, Extents: []providers.Extent{{Length: f.base.Size}}}, func(providers.Block) error {
			cancel()
			return nil
		})
	})
	ctx, cancel = context.WithCancel(c.ctx)
	defer cancel()
	_ = c.soon("list extents, cancelled by the first", func() error {
		return c.provider.Extents(ctx, providers.ExtentsRequest{Snapshot: f.base.Handle}, func([]providers.Extent) error {
			cancel()
			return nil
		})
	})
	c.holds(c.provider, f.base.Handle, f.before)
}

// insist repeats a call while it says that it may work later.
func (c *scope) insist(p providers.Provider, t try) error {
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for {
		err := t.call(c.ctx, p)
		if err == nil || !fault.KindOf(err).Retryable() {
			return err
		}
		select {
		case <-pause.C:
		case <-c.ctx.Done():
			return err
		}
	}
}

// killed kills the provider's process in a call, repeats the call by another one, and looks at the result.
func (j job) killed(c *scope) {
	if c.config.Kill == nil {
		c.Skipf("no Kill in the suite's configuration: the provider is no process of its own")
	}
	next := j.start(c)
	for _, after := range c.config.KillAfter {
		t := next()
		c.kill(j.name, t, after)
		p := c.open()
		c.must(j.name+", repeated after its process was killed", c.insist(p, t))
		t.check(p)
	}
}

func (c *scope) kill(name string, t try, after time.Duration) {
	victim := c.open()
	done := make(chan error, 1)
	go func() { done <- t.call(c.ctx, victim) }()
	time.Sleep(after) // there is nothing to wait for: any moment of the call is as good
	c.config.Kill()
	select {
	case err := <-done:
		if err != nil && !fault.KindOf(err).Retryable() && !errors.Is(err, context.Canceled) {
			c.Errorf("%s: its process was killed, and the error is %v (%v); expected one that can be tried again", name, err, fault.KindOf(err))
		}
	case <-time.After(c.config.Soon):
		c.Fatalf("%s: it goes on %v after its process was killed", name, c.config.Soon)
	}
}

// atOnce does a whole life of volumes in several goroutines.
func atOnce(c *scope) {
	if !c.makes() {
		c.Skipf("the provider makes no volumes of %s", c.content)
	}
	clients := []providers.Provider{c.provider, c.other()}
	requests := make([]providers.CreateRequest, 8)
	for i := range requests {
		requests[i] = c.request()
	}
	names := c.together(len(requests), func(i int) (string, error) { return requests[i].Token, c.live(clients[i%2], requests[i], byte(i+1)) })
	if len(names) != len(requests) {
		c.Errorf("%d of %d goroutines got through", len(names), len(requests))
	}
	c.expectVolumes(c.provider, 0)
	c.expectSnapshots(c.provider, 0)
}

// live makes a volume, its snapshot, and deletes both. It returns its errors: it runs beside others.
func (c *scope) live(p providers.Provider, r providers.CreateRequest, mark byte) error {
	block := c.filled(0)
	for i := range block.Data {
		block.Data[i] = mark
	}
	block.CRC = providers.Sum(block.Data)
	v, err := c.bear(p, r, block)
	if err != nil {
		return err
	}
	set, err := p.Snapshot(c.ctx, providers.SnapshotRequest{Token: r.Token + "-s", Volumes: []providers.Handle{v.Handle}, Tags: c.tags()})
	if err != nil {
		return err
	}
	if r.Content == providers.ContentBlocks && c.info.Can(providers.CapRead) && c.info.Can(providers.CapWrite) && set.Snapshots[0].Ready {
		err = p.Read(c.ctx, providers.ReadRequest{Snapshot: set.Snapshots[0].Handle, Extents: []providers.Extent{block.Extent}}, func(b providers.Block) error {
			if len(b.Data) == 0 || b.Data[0] != mark {
				c.Errorf("a volume made at once with others has the content of another one")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := p.DeleteSnapshot(c.ctx, set.Snapshots[0].Handle); err != nil {
		return err
	}
	return p.DeleteVolume(c.ctx, v.Handle)
}

func (c *scope) bear(p providers.Provider, r providers.CreateRequest, block providers.Block) (providers.Volume, error) {
	if r.Content != providers.ContentBlocks || !c.info.Can(providers.CapWrite) {
		return c.tryCreate(c.ctx, p, r)
	}
	v, err := p.Write(c.ctx, providers.WriteRequest{CreateRequest: r}, of(block))
	if err == nil {
		c.keepVolume(v)
	}
	return v, err
}
