//go:build cgo && ceph

package ceph_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
)

// TestConformance runs the suite in this process.
func TestConformance(t *testing.T) {
	raw := settings(t, nil)
	conformancetest.Run(t, conformance.Config{
		Open:         func(ctx context.Context) (providers.Provider, error) { return configured(ctx, raw) },
		Unconfigured: func() (providers.Provider, error) { return unconfigured(), nil },
		CopyTarget:   map[string]string{"pool": "other"},
		Contents:     []providers.Content{providers.ContentBlocks},
		Fill:         application(t),
	})
}

// TestConformanceFiles runs the suite on folders of a CephFS, of which no group is taken at one instant.
func TestConformanceFiles(t *testing.T) {
	raw := settings(t, nil)
	conformancetest.Run(t, conformance.Config{
		Open:         func(ctx context.Context) (providers.Provider, error) { return configured(ctx, raw) },
		Unconfigured: func() (providers.Provider, error) { return unconfigured(), nil },
		Contents:     []providers.Content{providers.ContentFiles},
		Only: []string{
			"create-volume", "delete-volume", "discover", "handles", "match", "snapshot-again", "snapshot-list", "snapshot-delete", "snapshot-several",
			"snapshot-all-or-none", "clone", "attach", "changes", "at-once", "cancelled-create", "cancelled-delete", "cancelled-snapshot",
			"cancelled-clone", "cancelled-attach", "cancelled-detach", "cancelled-changes",
		},
	})
}

// application writes into images as a program on another host does, as client.admin.
func application(t *testing.T) func(context.Context, providers.Volume, int64, []byte) error {
	t.Helper()
	conn, err := rados.NewConn()
	if err == nil {
		err = conn.ReadConfigFile(need(t).ConfigFile)
	}
	if err == nil {
		err = conn.Connect()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Shutdown)
	return func(_ context.Context, v providers.Volume, offset int64, data []byte) error {
		pool, name, _ := strings.Cut(v.ID, "/")
		io, err := conn.OpenIOContext(pool)
		if err != nil {
			return err
		}
		defer io.Destroy()
		image, err := rbd.OpenImage(io, name, rbd.NoSnapshot)
		if err != nil {
			return err
		}
		_, err = image.WriteAt(data, offset)
		return errors.Join(err, image.Flush(), image.Close())
	}
}
