package gluster_test

import (
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/gluster"
	"github.com/musterdr/muster/providers/rpc/rpctest"
)

// TestOverTheWire runs what a wire, or a death, can change, against real processes that it kills.
func TestOverTheWire(t *testing.T) {
	c := need(t)
	t.Parallel()
	s := &rpctest.Processes{Name: gluster.Name, Settings: settings(c, plain)}
	conformancetest.Run(t, conformance.Config{
		Open:         s.Open,
		Unconfigured: s.Start,
		Kill:         s.Kill,
		Contents:     []providers.Content{providers.ContentFiles},
		Size:         64 << 20,
		Parameters:   map[providers.Content]map[string]string{providers.ContentFiles: fast(map[string]string{"layout": "distribute"})},
		KillAfter:    []time.Duration{0, 200 * time.Millisecond},
		Only:         []string{"info", "configure", "health", "attach", "killed-"},
	})
}
