//go:build cgo && ceph

package ceph_test

import (
	"context"
	"testing"

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
	})
}
