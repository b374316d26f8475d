//go:build cgo && ceph

package ceph_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/ceph"
	"github.com/musterdr/muster/providers/rpc"
	"github.com/musterdr/muster/providers/rpc/rpctest"
	testceph "github.com/musterdr/muster/testenv/ceph"
)

// backend is the cluster of this package's tests; the first that needs it starts it.
var backend struct {
	once    sync.Once
	cluster *testceph.Cluster
	keyring string
	err     error
}

// TestMain is also the process that TestOverTheWire starts and kills.
func TestMain(m *testing.M) {
	if rpctest.IsProvider() {
		os.Exit(rpc.Serve(unconfigured()))
	}
	code := m.Run()
	if backend.cluster != nil {
		if err := backend.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// dir is where the cluster of this package lies, also after a crash: the next run sweeps it.
func dir() string { return filepath.Join(testceph.Memory(), "muster-providers-ceph") }

// need is the cluster, with two pools, a namespace, a CephFS, and the user that the documentation describes.
func need(t testing.TB) *testceph.Cluster {
	t.Helper()
	if reason := testceph.Skip(); reason != "" {
		t.Skip("left out: " + reason)
	}
	backend.once.Do(func() { backend.err = start(context.Background()) })
	if backend.err != nil {
		t.Fatal(backend.err)
	}
	return backend.cluster
}

func start(ctx context.Context) error {
	if err := testceph.Install(ctx); err != nil {
		return err
	}
	c, err := testceph.Start(ctx, testceph.Config{Dir: dir(), Files: true})
	if err != nil {
		return err
	}
	backend.cluster = c
	if err := c.AddPool(ctx, "other"); err != nil {
		return err
	}
	if _, err := c.RBD(ctx, "namespace", "create", "rbd/tenant"); err != nil {
		return err
	}
	backend.keyring, err = c.User(ctx, "muster", caps)
	return err
}

// caps are those of docs/providers-ceph.md.
var caps = map[string]string{
	"mon": "profile rbd, allow r", "osd": "profile rbd pool=rbd, profile rbd pool=other, allow rw tag cephfs data=cephfs",
	"mgr": "profile rbd pool=rbd, profile rbd pool=other", "mds": "allow rwps",
}

// settings are the JSON of a provider for the cluster.
func settings(t testing.TB, change func(map[string]any)) json.RawMessage {
	t.Helper()
	c := need(t)
	all := map[string]any{
		"monHosts": []string{c.MonHost}, "user": "muster", "keyringFile": backend.keyring, "pools": []string{"rbd", "other"},
		"filesystems": []string{"cephfs"}, "mountFolder": filepath.Join(dir(), "mounts"),
	}
	if change != nil {
		change(all)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func unconfigured() providers.Provider {
	return ceph.New(ceph.Config{Version: "test", Now: time.Now})
}

// open gives a configured provider.
func open(t testing.TB, change func(map[string]any)) providers.Provider {
	t.Helper()
	p, err := configured(t.Context(), settings(t, change))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func configured(ctx context.Context, raw json.RawMessage) (providers.Provider, error) {
	p := unconfigured()
	if err := p.Configure(ctx, raw); err != nil {
		return nil, err
	}
	return p, nil
}
