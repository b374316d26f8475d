package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Config are the limits. A zero field means its default.
type Config struct {
	// Name is what the provider must call itself; empty: any valid name.
	Name string
	// Silence is how long a call may go without an answer and without progress: 5 minutes. Time that
	// Muster itself takes does not count.
	Silence time.Duration
	// List is how many volumes, snapshots or machines one call may list: 1,000,000.
	List int
	// Paths is how many changed folders one call may list: 20,000,000.
	Paths int
	// Entries is how many tags, parameters or the like one thing may have: 1,000.
	Entries int
	// Item is how many bytes the texts of one thing may have together: 1 MiB.
	Item int
}

func (c Config) withDefaults() Config {
	if c.Silence == 0 {
		c.Silence = 5 * time.Minute
	}
	for limit, value := range map[*int]int{&c.List: 1e6, &c.Paths: 20e6, &c.Entries: 1000, &c.Item: 1 << 20} {
		if *limit == 0 {
			*limit = value
		}
	}
	return c
}

// Guard is a provider that keeps the contract, made of one that may not. The one inside must return when
// its context ends; rpc.Client does.
type Guard struct {
	inner              providers.Provider
	config             Config
	info               providers.Info
	volumes, snapshots seen
}

var _ providers.Provider = (*Guard)(nil)

// New asks a provider for its Info, checks it, and returns the guarded provider.
func New(ctx context.Context, inner providers.Provider, config Config) (*Guard, error) {
	g := &Guard{inner: inner, config: config.withDefaults(), info: providers.Info{Name: config.Name}}
	info, err := g.Info(ctx)
	if err != nil {
		return nil, err
	}
	g.info = info
	return g, nil
}

// lie is an answer that breaks the contract.
func (g *Guard) lie(op, format string, args ...any) error {
	return fault.Newf(op, fault.Corrupt, g.info.Name, "the provider broke its contract: %w; report it to whoever maintains the provider", fmt.Errorf(format, args...))
}

// needs refuses what the provider does not claim to be able to do.
func (g *Guard) needs(op string, capability providers.Capability) error {
	if g.info.Can(capability) {
		return nil
	}
	return fault.Newf(op, fault.Unsupported, g.info.Name,
		"the provider lacks the capability %s; what it can do: muster provider info %s", capability, g.info.Name)
}

// Info implements providers.Provider.
func (g *Guard) Info(ctx context.Context) (providers.Info, error) {
	info, err := one(ctx, g, "ask provider", g.inner.Info)
	if err != nil {
		return providers.Info{}, err
	}
	return info, g.checkInfo("ask provider", info)
}

// Configure implements providers.Provider.
func (g *Guard) Configure(ctx context.Context, settings json.RawMessage) error {
	return g.watch(ctx, "configure provider", func(ctx context.Context, _ *life) error {
		return g.inner.Configure(ctx, settings)
	})
}

// Health implements providers.Provider.
func (g *Guard) Health(ctx context.Context) (providers.Health, error) {
	const op = "look at backend"
	health, err := one(ctx, g, op, g.inner.Health)
	if err != nil {
		return providers.Health{}, err
	}
	return health, g.checkHealth(op, health)
}

// Close implements providers.Provider.
func (g *Guard) Close() error { return g.inner.Close() }

// seen remembers what handles stand for, so that later answers can be held against it.
type seen struct {
	mu     sync.Mutex
	things map[string]thing
}

// thing is what a volume or a snapshot was when it was last seen.
type thing struct {
	id   string
	size int64
}

// maxSeen bounds the memory; what was forgotten is asked for again.
const maxSeen = 100_000

func (s *seen) put(h providers.Handle, t thing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.things == nil || len(s.things) >= maxSeen {
		s.things = map[string]thing{}
	}
	s.things[string(h.State)] = t
}

func (s *seen) get(h providers.Handle) (thing, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.things[string(h.State)]
	return t, ok
}
