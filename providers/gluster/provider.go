package gluster

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Name is the provider's name.
const Name = "gluster"

// The sources of PersistentVolumes that are understood.
const (
	inTree    = "kubernetes.io/glusterfs"
	csiDriver = "org.gluster.glusterfs"
)

// Config is what New needs.
type Config struct {
	// Now is the clock of this host.
	Now func() time.Time
	// Version of the program.
	Version string
}

// New returns a provider that Configure makes ready.
func New(config Config) providers.Provider {
	if config.Version == "" {
		config.Version = "dev"
	}
	return &provider{Unsupported: providers.Unsupported{Provider: Name}, config: config, locks: newLocks()}
}

type provider struct {
	providers.Unsupported
	config Config
	locks  *locks

	mu   sync.Mutex
	pool *pool
	// thin says that volumes here can have snapshots; before Configure, that it isn't known.
	thin bool
}

// Info implements providers.Provider. Before Configure it tells what the kind of backend can do, after it
// what this pool can.
func (p *provider) Info(context.Context) (providers.Info, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info := providers.Info{
		Name: Name, Version: p.config.Version, Protocols: []int{providers.Protocol}, Schema: json.RawMessage(schema),
		Capabilities: []providers.Capability{providers.CapDiscover, providers.CapFiles, providers.CapCreate},
		Drivers:      []string{inTree, csiDriver},
	}
	if p.pool == nil || p.pool.settings.Changes == changesByChangelog {
		info.Capabilities = append(info.Capabilities, providers.CapChanges)
	}
	if p.pool == nil || p.thin {
		info.Capabilities = append(info.Capabilities, providers.CapSnapshot, providers.CapSnapFile, providers.CapClone)
	}
	if p.pool == nil {
		return info, nil
	}
	if len(p.pool.settings.Bricks) == 0 {
		info.Capabilities = slices.DeleteFunc(info.Capabilities, func(c providers.Capability) bool { return c == providers.CapCreate })
	}
	info.Drivers = append(info.Drivers, p.pool.settings.Drivers...)
	return info, nil
}

// Configure implements providers.Provider.
func (p *provider) Configure(ctx context.Context, raw json.RawMessage) error {
	settings, err := parse(raw)
	if err != nil {
		return err
	}
	p.mu.Lock()
	configured := p.pool != nil
	p.mu.Unlock()
	if configured {
		return fault.Newf("configure", fault.Exists, Name, "it is configured already")
	}
	fresh := newPool(settings)
	if err := fresh.login(ctx); err != nil {
		fresh.close()
		return err
	}
	thin, err := fresh.thin(ctx)
	if err != nil {
		fresh.close()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pool, p.thin = fresh, thin
	return nil
}

// login refuses a pool that lets nobody in, or a peer that shows a wrong key, and one without the command.
func (p *pool) login(ctx context.Context) error {
	for _, s := range p.shells {
		_, err := s.connect(ctx)
		var gone unreachable
		if err != nil && !errors.As(err, &gone) {
			return err
		}
	}
	_, err := p.peers(ctx)
	return err
}

// Close implements providers.Provider. Mounts stay: another process finds them by their tokens.
func (p *provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool != nil {
		p.pool.close()
	}
	return nil
}

// ready is the pool, or an error before Configure.
func (p *provider) ready(op string) (*pool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool == nil {
		return nil, fault.Newf(op, fault.Invalid, Name, "the provider is not configured: call Configure first")
	}
	return p.pool, nil
}

// handleVersion is that of state.
const handleVersion = 1

// state is what a handle holds: one of Volume, Snapshot and Mount.
type state struct {
	Volume   string `json:"volume,omitempty"` // a name; of a snapshot: the volume's
	ID       string `json:"id,omitempty"`     // the UUID of the volume
	Snapshot string `json:"snapshot,omitempty"`
	Mount    string `json:"mount,omitempty"`
}

func (s state) handle() providers.Handle {
	raw, _ := json.Marshal(s) // strings always marshal
	return providers.Handle{Provider: Name, Version: handleVersion, State: raw}
}

// open reads a handle of the kind whose field is picked.
func open(op string, h providers.Handle, kind string, field func(state) string) (state, error) {
	var s state
	if h.Provider != Name {
		return s, fault.Newf(op, fault.Invalid, h.Provider, "the handle is not of the provider %s", Name)
	}
	if h.Version != handleVersion {
		return s, fault.Newf(op, fault.Invalid, Name, "a handle of version %d: this program knows %d", h.Version, handleVersion)
	}
	if err := json.Unmarshal(h.State, &s); err != nil || !volumeName.MatchString(field(s)) {
		return s, fault.Newf(op, fault.Invalid, Name, "the handle names no %s", kind)
	}
	return s, nil
}

func openVolume(op string, h providers.Handle) (state, error) {
	s, err := open(op, h, "volume", func(s state) string { return s.Volume })
	if err == nil && (s.Snapshot != "" || !uuid.MatchString(s.ID)) {
		err = fault.Newf(op, fault.Invalid, Name, "the handle names no volume")
	}
	return s, err
}

// locks are one lock a name.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func newLocks() *locks { return &locks{held: map[string]chan struct{}{}} }

// take waits for the lock of a name.
func (l *locks) take(ctx context.Context, op, name string) (release func(), err error) {
	for {
		l.mu.Lock()
		busy, taken := l.held[name]
		if !taken {
			mine := make(chan struct{})
			l.held[name] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, name)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ended(ctx, op, name)
		}
	}
}
