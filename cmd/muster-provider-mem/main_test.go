package main

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/mem"
	"github.com/musterdr/muster/providers/rpc/rpctest"
)

func TestMain(m *testing.M) {
	if rpctest.IsProvider() {
		main()
	}
	os.Exit(m.Run())
}

func suite(t *testing.T, settings mem.Settings) conformance.Config {
	t.Helper()
	settings.Folder, settings.Regions = t.TempDir(), []string{"elsewhere"}
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	s := &rpctest.Processes{Name: mem.Name, Settings: raw}
	return conformance.Config{
		Open:         s.Open,
		Unconfigured: s.Start,
		Kill:         s.Kill,
		Size:         2 << 20,
		CopyTarget:   map[string]string{"region": "elsewhere"},
		Machine:      &providers.MachineRequest{Name: "node-1", Parameters: map[string]string{"image": "debian"}},
		KillAfter:    []time.Duration{0, 5 * time.Millisecond},
	}
}

// TestConformance runs the suite over the real wire against real processes, which it kills.
func TestConformance(t *testing.T) {
	t.Parallel()
	conformancetest.Run(t, suite(t, mem.Settings{}))
}

// TestKilledBeforeTheAnswer kills processes that have done the work and not yet said so.
func TestKilledBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	config := suite(t, mem.Settings{Faults: []mem.Fault{{Call: "*", At: mem.AtEnd, Latency: "30ms"}}})
	config.Only = []string{"killed-"}
	config.KillAfter = []time.Duration{15 * time.Millisecond}
	conformancetest.Run(t, config)
}
