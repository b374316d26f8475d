//go:build cgo && ceph

package ceph

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Config is what a provider is made with.
type Config struct {
	Version string // of the program
	Now     func() time.Time
	Log     *slog.Logger // nil: silence
}

// Provider implements providers.Provider.
type Provider struct {
	providers.Unsupported
	config   Config
	settings settings
	here     *cluster
	keys     keyed

	mu      sync.Mutex
	targets map[string]*cluster // that were used
	mounts  map[string]*filesystem
}

// New returns a provider that wants Configure.
func New(config Config) providers.Provider {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Provider{
		Unsupported: providers.Unsupported{Provider: name}, config: config, settings: defaults(),
		targets: map[string]*cluster{}, mounts: map[string]*filesystem{},
	}
}

// Info implements providers.Provider.
func (p *Provider) Info(context.Context) (providers.Info, error) {
	return providers.Info{
		Name: name, Version: p.config.Version, Protocols: []int{providers.Protocol}, Schema: slices.Clone(schema),
		Capabilities: []providers.Capability{
			providers.CapDiscover, providers.CapSnapshot, providers.CapGroup, providers.CapRead, providers.CapChanged,
			providers.CapWrite, providers.CapOverwrite, providers.CapCreate, providers.CapClone, providers.CapCopy,
			providers.CapFiles, providers.CapSnapFile, providers.CapChanges,
		},
		Drivers: slices.Concat(p.settings.Drivers.RBD, p.settings.Drivers.CephFS, []string{inTreeRBD, inTreeCephFS}),
	}, nil
}

// Configure implements providers.Provider.
func (p *Provider) Configure(ctx context.Context, raw json.RawMessage) error {
	s, err := parse(raw)
	if err != nil {
		return err
	}
	return bounded(ctx, "configure", func(context.Context) error {
		here, err := connect(s.access, time.Duration(s.Timeout))
		if err != nil {
			return err
		}
		p.settings, p.here = s, here
		for _, fs := range s.Filesystems {
			if _, err := p.filesystem(fs); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close implements providers.Provider.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []error
	for _, fs := range p.mounts {
		problems = append(problems, fs.close())
	}
	for _, target := range p.targets {
		target.close()
	}
	if p.here != nil {
		p.here.close()
	}
	return errors.Join(problems...)
}

// cluster is the one with an FSID: this one, or a target of copies.
func (p *Provider) cluster(op, fsid string) (*cluster, error) {
	if p.here == nil {
		return nil, fault.Newf(op, fault.Invalid, name, "the provider was not configured")
	}
	if fsid == p.here.fsid {
		return p.here, nil
	}
	for target := range p.settings.Targets {
		if c, err := p.target(op, target); err == nil && c.fsid == fsid {
			return c, nil
		}
	}
	return nil, fault.Newf(op, fault.NotFound, "cluster "+fsid, "the handle is of another cluster than the one that the settings reach, %s", p.here.fsid)
}

// target connects to a cluster that the settings name.
func (p *Provider) target(op, target string) (*cluster, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.targets[target]; c != nil {
		return c, nil
	}
	a, there := p.settings.Targets[target]
	if !there {
		return nil, fault.Newf(op, fault.Invalid, target, "the settings' targets name no such cluster")
	}
	if a.User == "" {
		a.User = p.settings.User
	}
	c, err := connect(a, time.Duration(p.settings.Timeout))
	if err != nil {
		return nil, err
	}
	p.targets[target] = c
	return c, nil
}
