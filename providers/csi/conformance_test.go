package csi

import (
	"context"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
)

func TestConformance(t *testing.T) {
	c := needCluster(t)
	conformancetest.Run(t, conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			p := New(Config{Now: time.Now})
			return p, p.Configure(ctx, c.settings(nil))
		},
		Unconfigured: func() (providers.Provider, error) { return New(Config{Now: time.Now}), nil },
		Size:         8 << 20,
		Parameters:   map[providers.Content]map[string]string{providers.ContentBlocks: {"storageClass": "labcsi"}},
		Patience:     5 * time.Minute,
		Soon:         30 * time.Second,
	})
	c.leavesNothing(t)
}
