package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/mem"
)

// bench is a suite's configuration for a fresh backend, whose providers lie makes worse.
func bench(t *testing.T, settings mem.Settings, lie func(providers.Provider, *mem.Backend) providers.Provider) conformance.Config {
	t.Helper()
	b, err := mem.NewBackend(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	settings.Regions = []string{"elsewhere"}
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	unconfigured := func() providers.Provider {
		p := mem.New(mem.Config{Now: time.Now, Backend: b})
		if lie != nil {
			p = lie(p, b)
		}
		return p
	}
	return conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			p := unconfigured()
			return p, p.Configure(ctx, raw)
		},
		Unconfigured: func() (providers.Provider, error) { return unconfigured(), nil },
		Size:         2 << 20,
		Zone:         "north",
		CopyTarget:   map[string]string{"region": "elsewhere"},
		Machine:      &providers.MachineRequest{Name: "node-1", Parameters: map[string]string{"image": "debian"}},
		Patience:     time.Minute,
		Volumes: func(ctx context.Context, content providers.Content, n int) ([]providers.Volume, error) {
			var all []providers.Volume
			for range n {
				v, err := b.AddVolume(ctx, providers.Volume{Content: content, Size: 2 << 20})
				if err != nil {
					return nil, err
				}
				all = append(all, v)
			}
			return all, nil
		},
	}
}

// caught expects that a case fails, and which part of its reason says why.
func caught(t *testing.T, config conformance.Config, name, reason string) {
	t.Helper()
	only, _, _ := strings.Cut(name, "/")
	config.Only = []string{only}
	results := conformance.Record(config, nil)
	for _, r := range results {
		if r.Name != name {
			continue
		}
		if r.Outcome != conformance.Fail {
			t.Fatalf("the case %s ends as %s (%s); it should fail", name, r.Outcome, r.Reason)
		}
		if !strings.Contains(r.Reason, reason) {
			t.Fatalf("the case %s fails for another reason: %s; expected %q", name, r.Reason, reason)
		}
		return
	}
	t.Fatalf("there is no case %s in %+v", name, results)
}

// TestRecordsHonest holds that an honest provider, slow or without some of its capabilities, passes every
// case that is not skipped.
func TestRecordsHonest(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]mem.Settings{
		"all":             {},
		"slow":            {Faults: []mem.Fault{{Call: "*", Latency: "1ms"}}},
		"no overwrite":    {Without: []providers.Capability{providers.CapOverwrite, providers.CapGroup}},
		"snapshots alone": {Without: []providers.Capability{providers.CapWrite, providers.CapOverwrite, providers.CapRead, providers.CapChanged, providers.CapFiles, providers.CapSnapFile, providers.CapChanges, providers.CapMachines, providers.CapCopy}},
		"files alone":     {Without: []providers.Capability{providers.CapGroup, providers.CapWrite, providers.CapOverwrite, providers.CapRead, providers.CapChanged, providers.CapSnapFile, providers.CapChanges}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := 0
			config := bench(t, settings, nil)
			config.KillAfter = []time.Duration{0, 2 * time.Millisecond}
			results := conformance.Record(config, func(conformance.Result) { seen++ })
			nothingIsLeft(t, config)
			passed := 0
			for _, r := range results {
				switch r.Outcome {
				case conformance.Fail:
					t.Errorf("%s: %s", r.Name, r.Reason)
				case conformance.Pass:
					passed++
				case conformance.Skip:
					if r.Reason == "" {
						t.Errorf("%s was skipped without a reason", r.Name)
					}
				}
			}
			if passed < 20 || seen != len(results) || !conformance.Passed(results) && !t.Failed() {
				t.Errorf("%d of %d cases passed, %d were told", passed, len(results), seen)
			}
		})
	}
}

// TestNames holds that no two cases have the same name.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range conformance.Names() {
		if seen[name] {
			t.Errorf("there are two cases %s", name)
		}
		seen[name] = true
	}
}

// TestFaultsAreCaught holds that what mem can be told to do wrong fails the case that it should fail.
func TestFaultsAreCaught(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		name   string
		fault  mem.Fault
		fails  string
		reason string
	}{
		{"read, checksum", mem.Fault{Call: "Read", Corrupt: mem.CorruptCRC}, "read/blocks", "checksum"},
		{"read, short", mem.Fault{Call: "Read", Corrupt: mem.CorruptShort}, "read/blocks", "ended before"},
		{"read, data", mem.Fault{Call: "Read", Corrupt: mem.CorruptData}, "read/blocks", "differs"},
		{"read, order", mem.Fault{Call: "Read", Corrupt: mem.CorruptOrder}, "read-parts/blocks", "ascend"},
		{"read, flood", mem.Fault{Call: "Read", Corrupt: mem.CorruptFlood}, "read/blocks", ""},
		{"read, breaks off", mem.Fault{Call: "Read", At: mem.AtMiddle, Kind: "transient"}, "read/blocks", "transient"},
		{"extents, short", mem.Fault{Call: "Extents", Corrupt: mem.CorruptShort}, "extents/blocks", "is in none"},
		{"changed extents, short", mem.Fault{Call: "Extents", Corrupt: mem.CorruptShort}, "extents-changed/blocks", "is in none"},
		{"extents, order", mem.Fault{Call: "Extents", Corrupt: mem.CorruptOrder}, "extents/blocks", "ascend"},
		{"extents, size", mem.Fault{Call: "Extents", Corrupt: mem.CorruptSize}, "extents/blocks", "lie within"},
		{"write, data", mem.Fault{Call: "Write", Corrupt: mem.CorruptData}, "write/blocks", "differs"},
		{"write, short", mem.Fault{Call: "Write", Corrupt: mem.CorruptShort}, "write/blocks", "differs"},
		{"write, order", mem.Fault{Call: "Write", Corrupt: mem.CorruptOrder}, "write/blocks", "ascend"},
		{"write, size", mem.Fault{Call: "Write", Corrupt: mem.CorruptSize}, "write/blocks", "were asked for"},
		{"create, size", mem.Fault{Call: "Create", Corrupt: mem.CorruptSize}, "create-volume/blocks", "were asked for"},
		{"describe, size", mem.Fault{Call: "Volume", Corrupt: mem.CorruptSize}, "create-volume/blocks", "were asked for"},
		{"snapshot, size", mem.Fault{Call: "Snapshot", Corrupt: mem.CorruptSize}, "snapshot/blocks", "its volume"},
		{"claims and cannot", mem.Fault{Call: "Create", Kind: "unsupported"}, "create-volume/files", "unsupported"},
		{"describes nothing", mem.Fault{Call: "SnapshotOf", Kind: "not-found"}, "snapshot/blocks", "not-found"},
		{"hangs", mem.Fault{Call: "Read", Hang: true}, "read/blocks", ""},
		{"hangs and hears nothing", mem.Fault{Call: "Health", Deaf: true}, "cancelled-health", "goes on"},
		{"a case never ends", mem.Fault{Call: "Bind", Deaf: true}, "match-and-bind/blocks", "did not come back"},
		{"a group fails", mem.Fault{Call: "Snapshot", After: 2, Kind: "transient"}, "snapshot-again/blocks", "transient"},
		{"detach fails", mem.Fault{Call: "Detach", After: 1, Kind: "internal"}, "attach/files", "internal"},
	} {
		t.Run(try.name, func(t *testing.T) {
			t.Parallel()
			config := bench(t, mem.Settings{Faults: []mem.Fault{try.fault}}, nil)
			if try.fault.Deaf || try.fault.Hang || try.fault.Corrupt == mem.CorruptFlood {
				config.Patience, config.Soon = 3*time.Second, 300*time.Millisecond
			}
			caught(t, config, try.fails, try.reason)
			if !try.fault.Deaf {
				nothingIsLeft(t, config)
			}
		})
	}
}

// nothingIsLeft looks for what a suite has made.
func nothingIsLeft(t *testing.T, config conformance.Config) {
	t.Helper()
	p, err := config.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	query := providers.Query{Tags: map[string]string{providers.TagRun: "*"}}
	err = errors.Join(
		unlessUnsupported(p.Discover(t.Context(), query, func(v providers.Volume) error { return fmt.Errorf("volume %s is left", v.ID) })),
		unlessUnsupported(p.ListSnapshots(t.Context(), query, func(n providers.Snapshot) error { return fmt.Errorf("snapshot %s is left", n.ID) })),
		unlessUnsupported(p.DiscoverMachines(t.Context(), query, func(m providers.Machine) error { return fmt.Errorf("machine %s is left", m.ID) })),
	)
	if err != nil {
		t.Error(err)
	}
}

func unlessUnsupported(err error) error {
	if fault.Is(err, fault.Unsupported) {
		return nil
	}
	return err
}
