package conformance

import (
	"context"

	"github.com/musterdr/muster/providers"
)

// cleanUp removes what a case made, newest first, and closes what it opened.
func (c *scope) cleanUp() {
	c.mu.Lock()
	volumes, snapshots, mounts, machines, opened := c.volumes, c.snapshots, c.mounts, c.machines, c.opened
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), c.config.Patience)
	defer cancel()
	bin := rubbish{provider: c.provider, volumes: volumes, snapshots: snapshots, machines: machines}
	for _, mount := range mounts {
		_ = c.provider.Detach(ctx, mount)
	}
	if err := bin.empty(ctx); err != nil {
		c.Errorf("clean up: %v", err)
	}
	for _, p := range opened {
		_ = p.Close()
	}
}

// sweep removes what is left of the run, by its tags: what a call made that did not say so.
func (s *suite) sweep(t T) {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Patience)
	defer cancel()
	s.mu.Lock()
	bin := s.lasting
	s.mu.Unlock()
	bin.provider = s.provider
	query := providers.Query{Tags: map[string]string{providers.TagRun: s.config.Run}}
	if s.info.Can(providers.CapSnapshot) {
		if err := s.provider.ListSnapshots(ctx, query, bin.addSnapshot); err != nil {
			t.Errorf("list what is left: %v", err)
		}
	}
	if s.info.Can(providers.CapDiscover) {
		if err := s.provider.Discover(ctx, query, bin.addVolume); err != nil {
			t.Errorf("discover what is left: %v", err)
		}
	}
	if s.info.Can(providers.CapMachines) {
		if err := s.provider.DiscoverMachines(ctx, query, bin.addMachine); err != nil {
			t.Errorf("discover machines that are left: %v", err)
		}
	}
	if err := bin.empty(ctx); err != nil {
		t.Errorf("remove what is left: %v", err)
	}
}

// rubbish is what must go.
type rubbish struct {
	provider                     providers.Provider
	machines, snapshots, volumes []providers.Handle
}

func (r *rubbish) addVolume(v providers.Volume) error {
	r.volumes = append(r.volumes, v.Handle)
	return nil
}

func (r *rubbish) addSnapshot(s providers.Snapshot) error {
	r.snapshots = append(r.snapshots, s.Handle)
	return nil
}

func (r *rubbish) addMachine(m providers.Machine) error {
	r.machines = append(r.machines, m.Handle)
	return nil
}

// empty deletes in rounds as long as a round gets anywhere: a volume may be held by its snapshots, a
// snapshot by its clones, and a volume by a machine.
func (r *rubbish) empty(ctx context.Context) error {
	for {
		before := len(r.machines) + len(r.snapshots) + len(r.volumes)
		var first error
		keep := func(all []providers.Handle, remove func(context.Context, providers.Handle) error) []providers.Handle {
			var left []providers.Handle
			for i := len(all) - 1; i >= 0; i-- {
				if err := remove(ctx, all[i]); err != nil {
					left = append([]providers.Handle{all[i]}, left...)
					if first == nil {
						first = err
					}
				}
			}
			return left
		}
		r.machines = keep(r.machines, r.provider.DeleteMachine)
		r.snapshots = keep(r.snapshots, r.provider.DeleteSnapshot)
		r.volumes = keep(r.volumes, r.provider.DeleteVolume)
		after := len(r.machines) + len(r.snapshots) + len(r.volumes)
		if after == 0 || after == before {
			return first
		}
	}
}
