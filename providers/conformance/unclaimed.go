package conformance

import (
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// unclaimed calls the methods behind capabilities that the provider does not claim.
func unclaimed(c *scope) {
	p, h := c.provider, providers.Handle{Provider: c.info.Name, Version: 1, State: []byte("muster-none")}
	request := c.request()
	request.Content = c.contents()[0]
	calls := map[providers.Capability]func() error{
		providers.CapDiscover: func() error {
			return p.Discover(c.ctx, providers.Query{Tags: c.tags()}, func(providers.Volume) error { return nil })
		},
		providers.CapSnapshot: func() error {
			_, err := p.Snapshot(c.ctx, providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{h}, Tags: c.tags()})
			return err
		},
		providers.CapRead: func() error {
			return p.Extents(c.ctx, providers.ExtentsRequest{Snapshot: h}, func([]providers.Extent) error { return nil })
		},
		providers.CapWrite: func() error {
			r := request
			r.Content = providers.ContentBlocks
			_, err := p.Write(c.ctx, providers.WriteRequest{CreateRequest: r}, of())
			return err
		},
		providers.CapCreate: func() error {
			v, err := p.Create(c.ctx, request)
			if err == nil {
				c.keepVolume(v)
			}
			return err
		},
		providers.CapClone: func() error {
			r := request
			r.Snapshot = h
			_, err := p.Create(c.ctx, r)
			return err
		},
		providers.CapCopy: func() error {
			_, err := p.CopySnapshot(c.ctx, providers.CopyRequest{Token: c.token(), Snapshot: h, Target: map[string]string{"region": "elsewhere"}, Tags: c.tags()})
			return err
		},
		providers.CapFiles: func() error {
			_, err := p.Attach(c.ctx, providers.AttachRequest{Token: c.token(), Volume: h})
			return err
		},
		providers.CapSnapFile: func() error {
			_, err := p.Attach(c.ctx, providers.AttachRequest{Token: c.token(), Snapshot: h})
			return err
		},
		providers.CapChanges: func() error {
			return p.Changes(c.ctx, providers.ChangesRequest{Volume: h, Since: "a", Until: "b"}, func([]string) error { return nil })
		},
		providers.CapMachines: func() error {
			return p.DiscoverMachines(c.ctx, providers.Query{Tags: c.tags()}, func(providers.Machine) error { return nil })
		},
	}
	tried := 0
	for capability, call := range calls {
		if c.info.Can(capability) {
			continue
		}
		tried++
		c.refused("a call behind "+string(capability)+", which the provider does not claim", call(), fault.Unsupported)
	}
	if tried == 0 {
		c.Skipf("the provider claims everything that can be tried")
	}
}
