package gluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
)

func TestConformance(t *testing.T) {
	c := need(t)
	began := time.Now()
	conformancetest.Run(t, conformance.Config{
		Open:         func(ctx context.Context) (providers.Provider, error) { return open(ctx, c, nil) },
		Unconfigured: func() (providers.Provider, error) { return unconfigured(), nil },
		Contents:     []providers.Content{providers.ContentFiles},
		Size:         64 << 20,
		Parameters:   map[providers.Content]map[string]string{providers.ContentFiles: fast(map[string]string{"replica": "2"})},
	})
	t.Logf("%v", time.Since(began))
}
