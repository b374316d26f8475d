// Package mem is the reference provider: volumes in memory, or in a folder where another process finds them.
//
// It can do everything that the contract knows, and it can be told to fail, to hang, to be slow and to lie
// (Fault), so that whatever stands above it can be tried against all of that.
//
// A Backend keeps volumes, snapshots, mounts and machines; several providers may share one. The content of
// a block volume is an image: a table of pages of 64 KiB. Images never change, so a snapshot is the name of
// an image, and changed blocks are what two tables differ in. The content of a file volume is a tree: a
// folder.
package mem

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Name is the provider's name.
const Name = "mem"

// Driver is the CSI driver's name in PersistentVolumes.
const Driver = "mem.muster.dev"

// Config is what New needs.
type Config struct {
	// Now is the backend's clock.
	Now func() time.Time
	// Version of the program.
	Version string
	// Backend is used when the settings name no folder; nil: one of the provider's own, which Close removes.
	Backend *Backend
}

// New returns a provider that Configure makes ready.
func New(config Config) providers.Provider {
	if config.Version == "" {
		config.Version = "dev"
	}
	return &faulty{inner: &provider{config: config}}
}

// provider is an honest one; faulty wraps it.
type provider struct {
	config Config

	mu      sync.Mutex
	backend *Backend
	own     bool
	regions []string
}

var capabilities = [...]providers.Capability{
	providers.CapDiscover, providers.CapSnapshot, providers.CapGroup, providers.CapRead, providers.CapChanged,
	providers.CapWrite, providers.CapOverwrite, providers.CapCreate, providers.CapClone, providers.CapCopy,
	providers.CapFiles, providers.CapSnapFile, providers.CapChanges, providers.CapMachines,
}

// Info implements providers.Provider.
func (p *provider) Info(context.Context) (providers.Info, error) {
	return providers.Info{
		Name: Name, Version: p.config.Version, Protocols: []int{providers.Protocol}, Schema: json.RawMessage(schema),
		Capabilities: append([]providers.Capability(nil), capabilities[:]...), Drivers: []string{Driver},
	}, nil
}

// Configure implements providers.Provider.
func (p *provider) Configure(_ context.Context, raw json.RawMessage) error {
	settings, err := parse(raw)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.backend != nil {
		return fault.Newf("configure", fault.Exists, Name, "it is configured already")
	}
	p.regions = settings.Regions
	if settings.Folder != "" {
		p.own = true
		p.backend, err = Open(settings.Folder, p.config.Now)
		return err
	}
	p.backend = p.config.Backend
	if p.backend == nil {
		p.own = true
		p.backend, err = NewBackend(p.config.Now)
	}
	return err
}

// ready is the backend, or an error before Configure.
func (p *provider) ready(op string) (*Backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.backend == nil {
		return nil, fault.Newf(op, fault.Invalid, Name, "the provider is not configured: call Configure first")
	}
	return p.backend, nil
}

// Health implements providers.Provider.
func (p *provider) Health(ctx context.Context) (providers.Health, error) {
	b, err := p.ready("health")
	if err != nil {
		return providers.Health{}, err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return providers.Health{}, err
	}
	return providers.Health{Usable: true, Fingerprint: s.Fingerprint, Version: p.config.Version, Now: b.now(), Free: -1, Total: -1}, nil
}

// Close implements providers.Provider.
func (p *provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.backend == nil || !p.own {
		return nil
	}
	return p.backend.Close()
}
