//go:build cgo && ceph

package ceph_test

import (
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/rpc/rpctest"
)

// TestOverTheWire runs what a wire, or a death, can change, against real processes that it kills. The death of one
// that holds a lease costs the time after which another takes it over; filesystems are left out, since CephFS waits
// a minute for a dead client.
func TestOverTheWire(t *testing.T) {
	s := &rpctest.Processes{Name: "ceph", Settings: settings(t, func(s map[string]any) { delete(s, "filesystems") })}
	conformancetest.Run(t, conformance.Config{
		Open:         s.Open,
		Unconfigured: s.Start,
		Kill:         s.Kill,
		Contents:     []providers.Content{providers.ContentBlocks},
		KillAfter:    []time.Duration{20 * time.Millisecond},
		Only: []string{
			"info", "configure", "health", "discover", "snapshot-several", "extents", "read", "write", "overwrite",
			"cancelled-write", "cancelled-read", "killed-delete-volume", "killed-write", "killed-overwrite", "killed-snapshot", "killed-read",
		},
	})
}
