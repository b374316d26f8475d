package conformance

import (
	"github.com/musterdr/muster/providers"
)

// fixture is a block volume with two snapshots which the cases that only look share.
type fixture struct {
	volume         providers.Volume
	before, after  picture
	base, snapshot providers.Snapshot
	changed        bool // base and snapshot differ
}

// fixture makes it for the first case that needs it; sweep removes it, or the last case.
func (c *scope) fixture() fixture {
	c.making.Lock()
	defer c.making.Unlock()
	if f := c.sharedFixture(); f != nil {
		return *f
	}
	f := fixture{before: c.picture(100)}
	f.volume = c.painted(f.before)
	f.base = c.snapshot(c.provider, f.volume)
	f.after, f.snapshot = f.before, f.base
	if c.changeable() {
		var written []providers.Extent
		f.after, written = c.repaint(f.before, 200)
		c.become(f.volume, f.before, f.after, written)
		f.snapshot, f.changed = c.snapshot(c.provider, f.volume), true
	}
	c.share(&f)
	return f
}

func (s *suite) sharedFixture() *fixture {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shared
}

// share lets the fixture outlast the case that made it.
func (c *scope) share(f *fixture) {
	c.suite.mu.Lock()
	defer c.suite.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared = f
	c.lasting.volumes = append(c.lasting.volumes, c.volumes...)
	c.lasting.snapshots = append(c.lasting.snapshots, c.snapshots...)
	c.volumes, c.snapshots = nil, nil
}
