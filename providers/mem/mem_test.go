package mem_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/mem"
)

func backend(t *testing.T) *mem.Backend {
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
	return b
}

// config is that of the suite for a backend, which settings may name by its folder.
func config(b *mem.Backend, settings mem.Settings) conformance.Config {
	settings.Regions = []string{"elsewhere"}
	unconfigured := func() providers.Provider { return mem.New(mem.Config{Now: time.Now, Backend: b}) }
	return conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			raw, err := json.Marshal(settings)
			if err != nil {
				return nil, err
			}
			p := unconfigured()
			return p, p.Configure(ctx, raw)
		},
		Unconfigured: func() (providers.Provider, error) { return unconfigured(), nil },
		Size:         2 << 20,
		Zone:         "north",
		Parameters:   map[providers.Content]map[string]string{providers.ContentBlocks: {"pool": "fast"}},
		CopyTarget:   map[string]string{"region": "elsewhere"},
		Machine:      &providers.MachineRequest{Name: "node-1", Parameters: map[string]string{"image": "debian"}},
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
		Fill: func(ctx context.Context, v providers.Volume, offset int64, data []byte) error {
			return b.WriteAt(ctx, v.ID, offset, data)
		},
	}
}

func TestConformanceInMemory(t *testing.T) {
	t.Parallel()
	conformancetest.Run(t, config(backend(t), mem.Settings{}))
}

func TestConformanceInAFolder(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b, err := mem.Open(folder, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	conformancetest.Run(t, config(b, mem.Settings{Folder: folder}))
}
