package gluster_test

import (
	"context"
	"testing"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/gluster"
)

func TestConformance(t *testing.T) {
	c := need(t)
	t.Parallel()
	conformancetest.Run(t, conformance.Config{
		Open:         func(ctx context.Context) (providers.Provider, error) { return open(ctx, c, plain) },
		Unconfigured: func() (providers.Provider, error) { return unconfigured(), nil },
		Contents:     []providers.Content{providers.ContentFiles},
		Size:         64 << 20,
		Parameters:   map[providers.Content]map[string]string{providers.ContentFiles: fast(map[string]string{"layout": "distribute"})},
	})
}

// plain makes volumes that are quick to start: the suite makes many, and looks at none of what this leaves
// out.
func plain(s *gluster.Settings) { s.Quota, s.Bricks = "none", s.Bricks[:1] }
