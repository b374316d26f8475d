package conformance

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

var (
	both   = []providers.Content{providers.ContentBlocks, providers.ContentFiles}
	blocks = []providers.Content{providers.ContentBlocks}
	files  = []providers.Content{providers.ContentFiles}
)

func needs(all ...providers.Capability) []providers.Capability { return all }

func volumeCases() []trial {
	return []trial{
		{name: "create-volume", needs: needs(providers.CapCreate), of: both, body: createVolume},
		{name: "create-volume-again", needs: needs(providers.CapCreate), of: both, body: createAgain},
		{name: "create-volume-refuses", needs: needs(providers.CapCreate), of: both, body: createRefuses},
		{name: "delete-volume", of: both, body: deleteVolume},
		{name: "delete-volume-foreign", of: both, body: deleteForeign},
		{name: "discover", needs: needs(providers.CapDiscover), of: both, body: discover},
		{name: "handles", of: both, body: handles},
	}
}

// looksRight holds a description to its request.
func (c *scope) looksRight(v providers.Volume, r providers.CreateRequest) {
	c.handleIsSane(v.Handle)
	if v.ID == "" {
		c.Errorf("the volume has no ID")
	}
	if v.Content != r.Content {
		c.Errorf("the volume holds %q; %q was asked for", v.Content, r.Content)
	}
	if v.Size != r.Size && (r.Content == providers.ContentBlocks || v.Size != 0) {
		c.Errorf("the volume has %d bytes; %d were asked for", v.Size, r.Size)
	}
	if v.Used < -1 {
		c.Errorf("%d bytes are used", v.Used)
	}
	if r.Zone != "" && v.Zone != r.Zone {
		c.Errorf("the volume is in zone %q; %q was asked for", v.Zone, r.Zone)
	}
	c.tagged(v.Tags, r.Tags, r.Token)
}

// tagged expects the tags of a request, and its token.
func (c *scope) tagged(got, want map[string]string, token string) {
	for key, value := range want {
		if got[key] != value {
			c.Errorf("tag %s is %q; %q was asked for", key, got[key], value)
		}
	}
	if got[providers.TagToken] != token {
		c.Errorf("tag %s is %q; the provider sets it to the token %q", providers.TagToken, got[providers.TagToken], token)
	}
}

func (c *scope) handleIsSane(h providers.Handle) {
	if h.Provider != c.info.Name || len(h.State) == 0 || len(h.State) > providers.MaxHandle {
		c.Errorf("the handle is of provider %q with %d bytes; expected %q with 1 to %d", h.Provider, len(h.State), c.info.Name, providers.MaxHandle)
	}
}

func createVolume(c *scope) {
	r := c.request()
	v := c.create(c.provider, r)
	c.looksRight(v, r)
	again, err := c.other().Volume(c.ctx, v.Handle)
	c.must("describe the volume from another client", err)
	c.looksRight(again, r)
	if again.ID != v.ID {
		c.Errorf("another client calls it %q, not %q", again.ID, v.ID)
	}
	if v.Content == providers.ContentBlocks {
		c.volumeHolds(c.provider, v, blankPicture(c.config.Size))
	}
}

func createAgain(c *scope) {
	r := c.request()
	first := c.create(c.provider, r)
	c.same(first, c.create(c.provider, r))
	other := c.other()
	c.same(first, c.create(other, r))
	c.expectVolumes(other, 1)

	different := r
	different.Size *= 2
	_, err := c.tryCreate(c.ctx, c.provider, different)
	c.refused("the same token for a different size", err, fault.Exists)
	c.expectVolumes(other, 1)

	c.race(c.request())
	c.expectVolumes(other, 2)
}

// race creates one volume from several goroutines and two clients.
func (c *scope) race(r providers.CreateRequest) {
	clients := []providers.Provider{c.provider, c.other()}
	ids := c.together(8, func(i int) (string, error) {
		v, err := c.tryCreate(c.ctx, clients[i%2], r)
		for retry := 0; retry < 5 && fault.KindOf(err).Retryable() && err != nil; retry++ {
			v, err = c.tryCreate(c.ctx, clients[i%2], r)
		}
		return v.ID, err
	})
	if len(ids) != 1 {
		c.Errorf("the same token at once gave the volumes %q; expected one", ids)
	}
}

// together runs a call several times at once and returns the different answers.
func (c *scope) together(n int, call func(i int) (string, error)) []string {
	var wait sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]bool{}
	for i := range n {
		wait.Go(func() {
			answer, err := call(i)
			if err != nil {
				c.Errorf("at once with others: %v (%v)", err, fault.KindOf(err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[answer] = true
		})
	}
	wait.Wait()
	return slices.Sorted(maps.Keys(answers))
}

func (c *scope) same(a, b providers.Volume) {
	if a.ID != b.ID {
		c.Errorf("the same token gave the volumes %q and %q", a.ID, b.ID)
	}
}

func createRefuses(c *scope) {
	r := c.request()
	if r.Parameters == nil {
		r.Parameters = map[string]string{}
	}
	r.Parameters["no-such-parameter"] = "1"
	_, err := c.tryCreate(c.ctx, c.provider, r)
	c.refused("create with an unknown parameter", err, fault.Invalid)
	r = c.request()
	r.Size = -1
	_, err = c.tryCreate(c.ctx, c.provider, r)
	c.refused("create with a size of -1", err, fault.Invalid)
	r = c.request()
	r.Content = "steam"
	_, err = c.tryCreate(c.ctx, c.provider, r)
	c.refused("create with an unknown content", err, fault.Invalid, fault.Unsupported)
	c.expectVolumes(c.provider, 0)
}

func deleteVolume(c *scope) {
	if !c.makes() {
		c.Skipf("the provider makes no volumes of %s", c.content)
	}
	r := c.request()
	v, other := c.create(c.provider, r), c.create(c.provider, c.request())
	c.must("delete the volume", c.provider.DeleteVolume(c.ctx, v.Handle))
	c.must("delete it again", c.provider.DeleteVolume(c.ctx, v.Handle))
	second := c.other()
	c.must("delete it again from another client", second.DeleteVolume(c.ctx, v.Handle))
	_, err := second.Volume(c.ctx, v.Handle)
	c.refused("describe a deleted volume", err, fault.NotFound)
	_, err = second.Volume(c.ctx, other.Handle)
	c.must("describe the other volume", err)
	c.expectVolumes(c.provider, 1)
	if fresh := c.create(c.provider, r); fresh.Size != c.config.Size && fresh.Size != 0 {
		c.Errorf("made again by the same token it has %d bytes", fresh.Size)
	}
	c.expectVolumes(c.provider, 2)
}

func deleteForeign(c *scope) {
	if c.config.Volumes == nil {
		c.Skipf("no Volumes in the suite's configuration: there is no volume that Muster did not make")
	}
	all, err := c.config.Volumes(c.ctx, c.content, 1)
	c.must("make a volume by the backend's own means", err)
	c.refused("delete a volume that Muster did not make", c.provider.DeleteVolume(c.ctx, all[0].Handle), fault.Denied)
	_, err = c.provider.Volume(c.ctx, all[0].Handle)
	c.must("describe the volume that was not to be deleted", err)
}

func discover(c *scope) {
	if !c.makes() {
		c.Skipf("the provider makes no volumes of %s", c.content)
	}
	a, b := c.create(c.provider, c.request()), c.create(c.provider, c.request())
	token := a.Tags[providers.TagToken]
	for _, try := range []struct {
		name  string
		query providers.Query
		want  []string
	}{
		{"by the tags of both", providers.Query{Tags: c.tags()}, []string{a.ID, b.ID}},
		{"by any value of a tag", providers.Query{Tags: map[string]string{providers.TagRun: c.config.Run, providers.TagStep: c.name, providers.TagToken: "*"}}, []string{a.ID, b.ID}},
		{"by one's token", providers.Query{Tags: map[string]string{providers.TagToken: token}}, []string{a.ID}},
		{"by a value that none has", providers.Query{Tags: map[string]string{providers.TagRun: c.config.Run, providers.TagStep: "none"}}, nil},
		{"by a tag that none has", providers.Query{Tags: map[string]string{providers.TagRun: c.config.Run, "muster.dev/none": "*"}}, nil},
		{"by ID", providers.Query{IDs: []string{b.ID}}, []string{b.ID}},
		{"by ID and tags", providers.Query{IDs: []string{b.ID}, Tags: map[string]string{providers.TagToken: token}}, nil},
		{"by an ID that none has", providers.Query{IDs: []string{"muster-no-such-volume"}}, nil},
		{"by a machine that has none", providers.Query{Machine: "muster-no-such-machine", Tags: c.tags()}, nil},
	} {
		for _, p := range []providers.Provider{c.provider, c.other()} {
			var got []string
			err := p.Discover(c.ctx, try.query, func(v providers.Volume) error {
				got = append(got, v.ID)
				return nil
			})
			c.must("discover "+try.name, err)
			slices.Sort(got)
			slices.Sort(try.want)
			if !slices.Equal(got, try.want) {
				c.Errorf("discover %s: %q; expected %q", try.name, got, try.want)
			}
		}
	}
	err := c.provider.Discover(c.ctx, providers.Query{Tags: c.tags()}, func(providers.Volume) error { return errStop })
	if !errors.Is(err, errStop) {
		c.Errorf("discover: an error of the callback became %v", err)
	}
}

// handles tries those that name nothing.
func handles(c *scope) {
	for name, h := range map[string]providers.Handle{
		"a handle of another provider": {Provider: "someone-else", Version: 1, State: []byte("x")},
		"a handle of a newer version":  {Provider: c.info.Name, Version: 1 << 20, State: []byte("x")},
		"a handle of noise":            {Provider: c.info.Name, Version: 1, State: []byte{0, 1, 2, 0xff, '{'}},
		"an empty handle":              {},
	} {
		_, err := c.provider.Volume(c.ctx, h)
		c.refused("describe "+name, err, fault.Invalid, fault.NotFound)
		if c.makes() {
			c.refused("delete "+name, c.provider.DeleteVolume(c.ctx, h), fault.Invalid, fault.NotFound, fault.Denied)
		}
		if !c.info.Can(providers.CapSnapshot) {
			continue
		}
		_, err = c.provider.SnapshotOf(c.ctx, h)
		c.refused("describe as a snapshot "+name, err, fault.Invalid, fault.NotFound)
		_, err = c.provider.Snapshot(c.ctx, providers.SnapshotRequest{Token: c.token(), Volumes: []providers.Handle{h}, Tags: c.tags()})
		c.refused("snapshot "+name, err, fault.Invalid, fault.NotFound)
	}
}
