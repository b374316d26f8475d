package host

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// TestMaxParallel counts the readers that are in at once.
func TestMaxParallel(t *testing.T) {
	config, _ := install(t, "mem")
	h := open(t, config)
	p := provide(t, h, plans.Storage{Name: "a", Provider: "mem", MaxParallel: 2})
	snapshot := snapshotOf(t, p)
	var mu sync.Mutex
	inside, most := 0, 0
	full := make(chan struct{})
	var readers sync.WaitGroup
	for range 6 {
		readers.Go(func() {
			request := providers.ReadRequest{Snapshot: snapshot, Extents: []providers.Extent{{Length: 1 << 20}}}
			err := p.Read(t.Context(), request, func(providers.Block) error {
				mu.Lock()
				inside++
				most = max(most, inside)
				if inside == 2 {
					select {
					case <-full:
					default:
						close(full)
					}
				}
				mu.Unlock()
				<-full
				mu.Lock()
				inside--
				mu.Unlock()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	if most != 2 {
		t.Errorf("%d at once", most)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Create(ctx, providers.CreateRequest{}); !fault.Is(err, fault.Transient) {
		t.Errorf("a caller that is gone: %v", err)
	}
}

func snapshotOf(t *testing.T, p providers.Provider) providers.Handle {
	t.Helper()
	block := providers.NewBlock(0, bytes.Repeat([]byte("x"), 1<<20))
	given := false
	volume, err := p.Write(t.Context(), providers.WriteRequest{CreateRequest: providers.CreateRequest{
		Token: "write", Content: providers.ContentBlocks, Size: 1 << 20, Tags: map[string]string{providers.TagRun: "test"},
	}}, func() (providers.Block, error) {
		if given {
			return providers.Block{}, io.EOF
		}
		given = true
		return block, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	set, err := p.Snapshot(t.Context(), providers.SnapshotRequest{
		Token: "snapshot", Volumes: []providers.Handle{volume.Handle}, Tags: map[string]string{providers.TagRun: "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set.Snapshots[0].Handle
}
