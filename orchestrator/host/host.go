package host

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/guard"
	"github.com/musterdr/muster/providers/rpc"
)

// Where plugins and their pins are unless somebody says otherwise.
const (
	DefaultFolder = "/usr/lib/muster/providers"
	DefaultPins   = "/etc/muster/providers.pins"
)

// Config is what a host needs. Folder, Pins, Log and Now have no defaults.
type Config struct {
	// Folder holds the programs; Pins is the file with their digests. Both are absolute.
	Folder, Pins string
	Log          *slog.Logger
	// Mask hides secrets in what providers log and answer; nil: only those of their environment.
	Mask *secret.Mask
	Now  func() time.Time
	// Lookup reads Muster's own environment; nil: os.LookupEnv.
	Lookup func(name string) (string, bool)
	// Memory is how many bytes of data a provider's process may have: 0 means 2 GiB, a negative number no
	// limit. Go programs are told to keep to half of it.
	Memory int64
	// Patience is how long a program may take to start: 0 means a minute.
	Patience time.Duration
	// Restarts is how often a provider may be started again within ten minutes: 0 means 5.
	Restarts int
	// Guard are the limits of what providers may answer.
	Guard guard.Config

	protocols rpc.Range // tests are older and newer Musters
}

func (c Config) withDefaults() Config {
	if c.Lookup == nil {
		c.Lookup = os.LookupEnv
	}
	if c.Memory == 0 {
		c.Memory = 2 << 30
	}
	if c.Patience == 0 {
		c.Patience = time.Minute
	}
	if c.Restarts == 0 {
		c.Restarts = 5
	}
	if c.protocols == (rpc.Range{}) {
		c.protocols = rpc.Protocols()
	}
	return c
}

// Host starts providers. It is safe for concurrent use.
type Host struct {
	config Config
	folder *folder

	mu       sync.Mutex
	shared   map[string]*Storage
	storages map[*Storage]bool // all that are open
	closed   bool
}

// Open checks the plugin folder. Errors: NotFound, Invalid (relative, not a folder), Denied (others may
// write into it).
func Open(_ context.Context, config Config) (*Host, error) {
	dir, err := openFolder(config.Folder)
	if err != nil {
		return nil, err
	}
	return &Host{config: config.withDefaults(), folder: dir, shared: map[string]*Storage{}, storages: map[*Storage]bool{}}, nil
}

// Close ends all processes and waits for them.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	var all []*Storage
	for s := range h.storages {
		all = append(all, s)
	}
	h.mu.Unlock()
	for _, s := range all {
		_ = s.Close() // an error of a backend that is let go of changes nothing
	}
	return h.folder.close()
}

// Provider returns the configured provider of a backend, the same for the same storage: it lives until the
// host is closed, whoever closes it before. Errors are those of Start.
func (h *Host) Provider(ctx context.Context, storage plans.Storage) (providers.Provider, error) {
	key, err := json.Marshal(storage)
	if err != nil {
		return nil, fault.New("read storage settings", fault.Invalid, storage.Name, err)
	}
	s, err := h.sharedStorage(string(key), storage)
	if err != nil {
		return nil, err
	}
	if _, err := s.live(ctx); err != nil {
		return nil, err
	}
	return keptOpen{s}, nil
}

func (h *Host) sharedStorage(key string, storage plans.Storage) (*Storage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s, ok := h.shared[key]; ok {
		return s, nil
	}
	s, err := h.addStorage(storage, true)
	if err == nil {
		h.shared[key] = s
	}
	return s, err
}

// keptOpen is a provider that others use too.
type keptOpen struct{ *Storage }

// Close implements providers.Provider; the host closes.
func (keptOpen) Close() error { return nil }

// Start starts a provider of its own for a backend; its Close ends the process. Errors: NotFound (no such
// program), Denied (not pinned, changed, writable by others), Invalid (settings), Unsupported (protocol),
// and those of Configure.
func (h *Host) Start(ctx context.Context, storage plans.Storage) (*Storage, error) {
	return h.start(ctx, storage, true)
}

// Unconfigured starts a provider that nobody has given settings yet.
func (h *Host) Unconfigured(ctx context.Context, name string) (*Storage, error) {
	return h.start(ctx, plans.Storage{Name: name, Provider: name}, false)
}

func (h *Host) start(ctx context.Context, storage plans.Storage, configure bool) (*Storage, error) {
	h.mu.Lock()
	s, err := h.addStorage(storage, configure)
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if _, err := s.live(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// addStorage wants the lock.
func (h *Host) addStorage(storage plans.Storage, configure bool) (*Storage, error) {
	if h.closed {
		return nil, fault.Newf("start provider", fault.Internal, storage.Provider, "the host is closed")
	}
	s, err := newStorage(h, storage, configure)
	if err != nil {
		return nil, err
	}
	h.storages[s] = true
	return s, nil
}

func (h *Host) forget(s *Storage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.storages, s)
}
