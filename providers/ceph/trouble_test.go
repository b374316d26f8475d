//go:build cgo && ceph

package ceph_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	testceph "github.com/musterdr/muster/testenv/ceph"
)

// TestFull fills a pool to its quota in the middle of a write, which ends instead of waiting for space. What is
// there can be deleted all the same, and then the write goes through.
func TestFull(t *testing.T) {
	c := need(t)
	p := open(t, in("other"))
	old := write(t, p, request(t, 15), nil)
	setQuota(t, c, "other", 16*unit)
	t.Cleanup(func() { setQuota(t, c, "other", 0) })

	r := request(t, 256)
	_, err := p.Write(t.Context(), r, blocks(256, func(n int) error {
		if n != 2 {
			return nil
		}
		return awaitFull(t.Context(), c, "other", true)
	}))
	refused(t, err, fault.NoSpace)
	_, err = p.Create(t.Context(), request(t, 1).CreateRequest)
	refused(t, err, fault.NoSpace)

	must(t, p.DeleteVolume(t.Context(), old.Handle))
	must(t, awaitFull(t.Context(), c, "other", false))
	v, err := p.Write(t.Context(), r, blocks(3, nil))
	must(t, err)
	holds(t, c, v, 3)
	must(t, p.DeleteVolume(t.Context(), v.Handle))
	empty(t, c, p, "other")
}

func setQuota(t *testing.T, c *testceph.Cluster, pool string, size int64) {
	t.Helper()
	_, err := c.Ceph(context.WithoutCancel(t.Context()), "osd", "pool", "set-quota", pool, "max_bytes", fmt.Sprint(size))
	must(t, err)
}

// awaitFull waits until a pool counts as full, or does not.
func awaitFull(ctx context.Context, c *testceph.Cluster, pool string, want bool) error {
	return await(ctx, func() (bool, error) {
		text, err := c.Ceph(ctx, "osd", "pool", "ls", "detail", "--format", "json")
		if err != nil {
			return false, err
		}
		var pools []struct {
			Name  string `json:"pool_name"`
			Flags string `json:"flags_names"`
		}
		if err := json.Unmarshal([]byte(text), &pools); err != nil {
			return false, err
		}
		for _, p := range pools {
			if p.Name == pool {
				return slices.Contains(strings.Split(p.Flags, ","), "full") == want, nil
			}
		}
		return false, fmt.Errorf("there is no pool %s", pool)
	})
}

// TestMonitorGone has the only monitor stand still in the middle of a write. What needs the OSDs alone goes on; the
// rest ends within the settings' timeout, and can be repeated when the monitor is back.
func TestMonitorGone(t *testing.T) {
	c := need(t)
	p := open(t, quick)
	stop, back := halting(t, c, testceph.Monitor)
	v := write(t, p, request(t, 8), func(n int) error {
		if n != 2 {
			return nil
		}
		return stop()
	})
	_, err := p.Health(t.Context())
	refused(t, err, fault.Transient)
	refused(t, unconfigured().Configure(t.Context(), settings(t, quick)), fault.Transient)
	r := providers.SnapshotRequest{Token: token(t), Volumes: []providers.Handle{v.Handle}, Tags: tags(t)}
	_, err = p.Snapshot(t.Context(), r)
	refused(t, err, fault.Transient)

	must(t, back())
	must(t, await(t.Context(), func() (bool, error) {
		health, err := p.Health(t.Context())
		return health.Usable, err
	}))
	holds(t, c, v, 8)
	set, err := p.Snapshot(t.Context(), r)
	must(t, err)
	must(t, p.DeleteSnapshot(t.Context(), set.Snapshots[0].Handle))
	must(t, p.DeleteVolume(t.Context(), v.Handle))
	empty(t, c, p, testceph.Pool)
}

// TestDiskGone has the only OSD stand still in the middle of a write until it is started anew: one that goes on may
// leave operations waiting for ever, as Ceph 16 does with one copy of everything.
func TestDiskGone(t *testing.T) {
	c := need(t)
	p := open(t, quick)
	stop, _ := halting(t, c, testceph.OSD)
	r := request(t, 64)
	_, err := p.Write(t.Context(), r, blocks(64, func(n int) error {
		if n != 2 {
			return nil
		}
		return stop()
	}))
	refused(t, err, fault.Transient)
	must(t, restarted(t.Context(), c))
	var v providers.Volume
	again(t, func() (err error) { // at first the client that has the image locked is given up
		v, err = p.Write(t.Context(), r, blocks(64, nil))
		return err
	})
	holds(t, c, v, 64)
	must(t, p.DeleteVolume(t.Context(), v.Handle))
	empty(t, c, p, testceph.Pool)
}

// TestDiskBack is the same of a read. Its client may hear of the OSD that is back never again: another takes its place.
func TestDiskBack(t *testing.T) {
	c := need(t)
	p := open(t, quick)
	stop, _ := halting(t, c, testceph.OSD)
	v := write(t, p, request(t, 64), nil)
	n := snapshot(t, p, v)
	err := p.Read(t.Context(), all(n), func(b providers.Block) error {
		if b.Offset != 0 {
			return nil
		}
		return stop()
	})
	refused(t, err, fault.Transient)
	must(t, restarted(t.Context(), c))
	again(t, func() error { return p.Read(t.Context(), all(n), func(providers.Block) error { return nil }) })
	must(t, p.DeleteSnapshot(t.Context(), n.Handle))
	must(t, p.DeleteVolume(t.Context(), v.Handle))
	empty(t, c, p, testceph.Pool)
}

// again repeats what is transient, as a step does: an OSD that was started anew is slow for some seconds.
func again(t *testing.T, call func() error) {
	t.Helper()
	var err error
	waited := await(t.Context(), func() (bool, error) {
		err = call()
		return !fault.Is(err, fault.Transient), nil
	})
	must(t, errors.Join(waited, err))
}

// halting makes a daemon stand still, and go on: at the test's end at the latest.
func halting(t *testing.T, c *testceph.Cluster, daemon testceph.Daemon) (stop, back func() error) {
	t.Cleanup(func() { must(t, c.Continue(daemon)) })
	return func() error { return c.Stop(daemon) }, func() error { return c.Continue(daemon) }
}

// restarted starts the OSD anew, and waits until it serves again: the list of images is not answered before.
func restarted(ctx context.Context, c *testceph.Cluster) error {
	c.Kill(testceph.OSD)
	if err := c.Run(testceph.OSD); err != nil {
		return err
	}
	_, err := c.RBD(ctx, "ls", testceph.Pool)
	return errors.Join(err, c.Ready(ctx))
}

// TestDeletedBySomebody deletes snapshots with Ceph's own tools. A read in the middle of which that happens would
// go on with whatever Ceph has there now: it ends with an error.
func TestDeletedBySomebody(t *testing.T) {
	c := need(t)
	p := open(t, nil)
	v := write(t, p, request(t, 24), nil)
	base := snapshot(t, p, v)
	overwrite := request(t, 24)
	overwrite.Into = v.Handle
	write(t, p, overwrite, nil)
	next := snapshot(t, p, v)

	err := p.Read(t.Context(), all(base), func(b providers.Block) error {
		if b.Offset != 0 {
			return nil
		}
		return deleteByHand(t.Context(), c, base)
	})
	refused(t, err, fault.NotFound)
	_, err = p.SnapshotOf(t.Context(), base.Handle)
	refused(t, err, fault.NotFound)
	refused(t, p.Read(t.Context(), all(base), func(providers.Block) error { return nil }), fault.NotFound)
	refused(t, p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: next.Handle, Base: base.Handle}, func([]providers.Extent) error { return nil }), fault.NotFound)
	clone := request(t, 0).CreateRequest
	clone.Snapshot = base.Handle
	_, err = p.Create(t.Context(), clone)
	refused(t, err, fault.NotFound)
	_, err = p.CopySnapshot(t.Context(), providers.CopyRequest{Token: token(t), Snapshot: base.Handle, Target: map[string]string{"pool": "other"}, Tags: tags(t)})
	refused(t, err, fault.NotFound)
	must(t, p.DeleteSnapshot(t.Context(), base.Handle))

	err = p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: next.Handle}, func([]providers.Extent) error {
		return deleteByHand(t.Context(), c, next)
	})
	refused(t, err, fault.NotFound)
	must(t, p.DeleteSnapshot(t.Context(), next.Handle))
	must(t, p.DeleteVolume(t.Context(), v.Handle))
	empty(t, c, p, testceph.Pool, "other")
}

func deleteByHand(ctx context.Context, c *testceph.Cluster, s providers.Snapshot) error {
	_, err := c.RBD(ctx, "snap", "rm", "--no-progress", s.ID)
	return err
}

// TestRevoked takes the user away in the middle of a write, and puts its client on the cluster's block list: Ceph
// would let a connection live until its ticket expires. Another user then makes what was cut off.
func TestRevoked(t *testing.T) {
	c := need(t)
	keyring, err := c.User(t.Context(), "brief", caps)
	must(t, err)
	p := open(t, func(s map[string]any) { s["user"], s["keyringFile"] = "brief", keyring })
	r := request(t, 64)
	_, err = p.Write(t.Context(), r, blocks(64, func(n int) error {
		if n != 2 {
			return nil
		}
		return revoke(t.Context(), c, "brief", r)
	}))
	refused(t, err, fault.Transient)
	_, err = p.Write(t.Context(), r, blocks(64, nil))
	refused(t, err, fault.Denied)
	err = p.Discover(t.Context(), providers.Query{}, func(providers.Volume) error { return nil })
	refused(t, err, fault.Denied)

	other := open(t, nil)
	v := write(t, other, r, nil)
	holds(t, c, v, 64)
	must(t, other.DeleteVolume(t.Context(), v.Handle))
	empty(t, c, other, testceph.Pool)
}

// revoke removes a user and shuts its client out, which is known by the image that it writes.
func revoke(ctx context.Context, c *testceph.Cluster, user string, r providers.WriteRequest) error {
	names, err := c.RBD(ctx, "ls", testceph.Pool)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(strings.Fields(names), func(name string) bool { return strings.HasPrefix(name, r.Name+"-") })
	if at < 0 {
		return fmt.Errorf("no image of %s among %s", r.Name, names)
	}
	text, err := c.RBD(ctx, "status", "--format", "json", testceph.Pool+"/"+strings.Fields(names)[at])
	if err != nil {
		return err
	}
	var status struct {
		Watchers []struct {
			Address string `json:"address"`
		} `json:"watchers"`
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		return err
	}
	if _, err := c.Ceph(ctx, "auth", "rm", "client."+user); err != nil {
		return err
	}
	for _, w := range status.Watchers {
		if _, err := c.Ceph(ctx, "osd", "blocklist", "add", w.Address); err != nil {
			return err
		}
	}
	return nil
}

// unit is the length of the tests' blocks.
const unit = 4 << 20

// blocks is a source of n blocks of noise, the same each time; before is asked ahead of each.
func blocks(n int, before func(n int) error) providers.Source {
	at := 0
	return func() (providers.Block, error) {
		if at == n {
			return providers.Block{}, io.EOF
		}
		if before != nil {
			if err := before(at); err != nil {
				return providers.Block{}, err
			}
		}
		at++
		return providers.NewBlock(int64(at-1)*unit, noise(at-1)), nil
	}
}

// noise is the content of the block with that number.
func noise(n int) []byte {
	data := make([]byte, unit)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(data) // never fails
	return data
}

// holds expects an image to begin with n blocks, and to have nothing else.
func holds(t *testing.T, c *testceph.Cluster, v providers.Volume, n int) {
	t.Helper()
	got, err := c.RBD(t.Context(), "export", "--no-progress", v.ID, "-")
	must(t, err)
	for i := range int(v.Size / unit) {
		want := make([]byte, unit)
		if i < n {
			want = noise(i)
		}
		if !bytes.Equal([]byte(got[i*unit:(i+1)*unit]), want) {
			t.Fatalf("%s: block %d differs", v.ID, i)
		}
	}
}

// empty expects no image, and nothing of the test's in what the provider tells.
func empty(t *testing.T, c *testceph.Cluster, p providers.Provider, pools ...string) {
	t.Helper()
	for _, pool := range pools {
		images, err := c.RBD(t.Context(), "ls", pool)
		must(t, err)
		if strings.Contains(images, strings.ToLower(t.Name())) {
			t.Errorf("images are left in %s: %s", pool, images)
		}
	}
	must(t, p.ListSnapshots(t.Context(), providers.Query{Tags: tags(t)}, func(s providers.Snapshot) error {
		t.Errorf("a snapshot is left: %s", s.ID)
		return nil
	}))
}

// await asks until the answer is yes; an error counts as no.
func await(ctx context.Context, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for {
		yes, err := ask()
		if yes && err == nil {
			return nil
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func in(pools ...string) func(map[string]any) {
	return func(s map[string]any) { s["pools"] = pools }
}

// quick makes a provider whose calls give up after two seconds.
func quick(s map[string]any) { s["timeout"] = "2s" }

var tokens atomic.Int64

func token(t *testing.T) string { return fmt.Sprintf("%s-%d", t.Name(), tokens.Add(1)) }

func tags(t *testing.T) map[string]string { return map[string]string{providers.TagRun: t.Name()} }

// request is one for an image of n blocks.
func request(t *testing.T, n int) providers.WriteRequest {
	return providers.WriteRequest{CreateRequest: providers.CreateRequest{
		Token: token(t), Name: strings.ToLower(t.Name()), Content: providers.ContentBlocks, Size: int64(n) * unit, Tags: tags(t),
	}}
}

// write fills an image with blocks.
func write(t *testing.T, p providers.Provider, r providers.WriteRequest, before func(n int) error) providers.Volume {
	t.Helper()
	v, err := p.Write(t.Context(), r, blocks(int(r.Size/unit), before))
	must(t, err)
	return v
}

func snapshot(t *testing.T, p providers.Provider, v providers.Volume) providers.Snapshot {
	t.Helper()
	set, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: token(t), Volumes: []providers.Handle{v.Handle}, Tags: tags(t)})
	must(t, err)
	return set.Snapshots[0]
}

// all asks for everything in a snapshot.
func all(s providers.Snapshot) providers.ReadRequest {
	return providers.ReadRequest{Snapshot: s.Handle, Extents: []providers.Extent{{Length: s.Size}}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%v)", err, fault.KindOf(err))
	}
}

func refused(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("%v (%v), want a refusal as %v", err, fault.KindOf(err), kind)
	}
}
