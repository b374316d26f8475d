package main

import (
	"context"
	"sync"

	"github.com/musterdr/muster/orchestrator/host"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
)

// backends opens the host of providers when the first one is asked for: most plans need none, and most
// machines have no plugin folder.
type backends struct {
	app  *app
	mu   sync.Mutex
	host *host.Host
}

// Provider implements orchestrator.ProviderSource.
func (b *backends) Provider(ctx context.Context, storage plans.Storage) (providers.Provider, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.host == nil {
		opened, err := b.app.providerHost(ctx)
		if err != nil {
			return nil, err
		}
		b.host = opened
	}
	return b.host.Provider(ctx, storage)
}

func (b *backends) close() {
	if b.host != nil {
		_ = b.host.Close() // what providers did is durable when their calls return
	}
}
