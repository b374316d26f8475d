package host

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/guard"
	"github.com/musterdr/muster/providers/rpc"
)

// Storage is a backend with its provider's process. It implements providers.Provider.
type Storage struct {
	host      *Host
	spec      plans.Storage
	configure bool
	variables []string
	masks     masks
	log       *slog.Logger
	// Reads and changes are counted apart: a copy of a storage into itself holds one of each, and would
	// otherwise wait for itself.
	reads, changes slots

	turn    chan struct{} // holds one: whose turn it is to look at the fields below
	current *running
	deaths  []time.Time
	closed  bool
}

// running is a provider that is up.
type running struct {
	*launched
	guard *guard.Guard
}

func newStorage(h *Host, spec plans.Storage, configure bool) (*Storage, error) {
	if spec.MaxParallel < 0 {
		return nil, fault.Newf("read storage settings", fault.Invalid, spec.Name, "maxParallel is negative")
	}
	variables, secrets := h.config.environment(spec.Environment)
	return &Storage{
		host: h, spec: spec, configure: configure, variables: variables,
		masks: masks{h.config.Mask, secret.NewMask(secrets...)},
		log:   h.config.Log.With("provider", spec.Provider, "storage", spec.Name),
		reads: newSlots(spec.MaxParallel), changes: newSlots(spec.MaxParallel),
		turn: make(chan struct{}, 1),
	}, nil
}

// live returns the running provider, started anew when it has died.
func (s *Storage) live(ctx context.Context) (*running, error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fault.New("start provider", fault.Transient, s.spec.Provider, ctx.Err())
	}
	defer func() { <-s.turn }()
	if s.closed {
		return nil, fault.Newf("start provider", fault.Internal, s.spec.Provider, "it was closed")
	}
	if s.current != nil {
		if s.current.process.alive() {
			return s.current, nil
		}
		s.bury()
	}
	if err := s.backOff(ctx); err != nil {
		return nil, err
	}
	r, err := s.begin(ctx)
	if err != nil {
		if k := fault.KindOf(err); ctx.Err() == nil && (k == fault.Transient || k == fault.Internal) {
			s.deaths = append(s.deaths, s.host.config.Now())
		}
		return nil, s.masks.error(err)
	}
	s.current = r
	return r, nil
}

// bury lets go of a process that is dead.
func (s *Storage) bury() {
	s.current.kill()
	s.log.Warn("provider ended", "error", s.masks.text(s.current.ended().Error()))
	s.current = nil
	s.deaths = append(s.deaths, s.host.config.Now())
}

const (
	window    = 10 * time.Minute
	firstWait = 200 * time.Millisecond
	longest   = 10 * time.Second
)

// backOff waits before a provider that keeps dying is started again, and gives up on one that dies too often.
func (s *Storage) backOff(ctx context.Context) error {
	since := s.host.config.Now().Add(-window)
	for len(s.deaths) > 0 && s.deaths[0].Before(since) {
		s.deaths = s.deaths[1:]
	}
	deaths := len(s.deaths)
	if deaths > s.host.config.Restarts {
		return fault.Newf("start provider", fault.Internal, s.spec.Provider, "it ended %d times within %s, and is not started again: its last words are in the log", deaths, window)
	}
	if deaths < 2 {
		return nil
	}
	timer := time.NewTimer(min(firstWait<<(deaths-2), longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fault.New("start provider", fault.Transient, s.spec.Provider, ctx.Err())
	}
}

// begin starts a process, and gives it its settings.
func (s *Storage) begin(ctx context.Context) (*running, error) {
	l, err := s.host.launch(ctx, start{
		name: s.spec.Provider, variables: s.variables, log: newLogger(s.log, s.masks), protocols: s.host.config.protocols,
	})
	if err != nil {
		return nil, err
	}
	r, err := s.ready(ctx, l)
	if err != nil {
		if errors.Is(err, rpc.ErrEnded) {
			err = s.describeEnd(l, err)
		}
		l.kill()
		return nil, err
	}
	s.log.Debug("provider started", "protocol", l.plugin.NegotiatedVersion(), "sha256", l.process.program.digest)
	return r, nil
}

func (s *Storage) ready(ctx context.Context, l *launched) (*running, error) {
	limits := s.host.config.Guard
	limits.Name = s.spec.Provider
	g, err := guard.New(ctx, l.Client, limits)
	if err != nil {
		return nil, err
	}
	if !s.configure {
		return &running{launched: l, guard: g}, nil
	}
	info, err := g.Info(ctx)
	if err != nil {
		return nil, err
	}
	settings, err := checkSettings(s.spec.Provider, s.spec.Name, info.Schema, s.spec.Settings)
	if err != nil {
		return nil, err
	}
	return &running{launched: l, guard: g}, g.Configure(ctx, settings)
}

// Kill kills the provider's process at once, as a test of what happens then.
func (s *Storage) Kill() {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.current != nil {
		_ = s.current.process.Kill(context.Background())
		<-s.current.process.exited
	}
}

// Protocol is the version of the protocol that is spoken with the running process, 0 when there is none.
func (s *Storage) Protocol() int {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.current == nil {
		return 0
	}
	return s.current.plugin.NegotiatedVersion()
}

// Close implements providers.Provider: it ends the process.
func (s *Storage) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.closed = true
	s.host.forget(s)
	if s.current != nil {
		s.current.stop()
		s.current = nil
	}
	return nil
}

const (
	deathPatience = 2 * time.Second // a connection breaks before its process is waited for
	signPatience  = 5 * time.Second // Info does no I/O
)

// judge looks at the error of a call. A provider that is gone, or is no more to be spoken to, is replaced at
// the next call.
func (s *Storage) judge(r *running, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, guard.ErrSilent):
		s.ensure(r)
	case errors.Is(err, rpc.ErrEnded):
		select {
		case <-r.process.exited:
			return s.describeEnd(r.launched, err)
		case <-time.After(deathPatience):
			s.ensure(r) // perhaps it was another provider, inside of each
		}
	}
	return err
}

// ensure kills a provider that does not even tell its name.
func (s *Storage) ensure(r *running) {
	patience := signPatience
	if silence := s.host.config.Guard.Silence; silence > 0 {
		patience = min(patience, silence)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := r.Info(ctx); err != nil {
		s.log.Warn("provider does not answer and is killed", "error", s.masks.text(err.Error()))
		_ = r.process.Kill(context.Background())
		<-r.process.exited
	}
}

// describeEnd adds how the process ended.
func (s *Storage) describeEnd(l *launched, err error) error {
	_ = l.process.Kill(context.Background())
	<-l.process.exited
	var known *fault.Error
	if !errors.As(err, &known) {
		return err
	}
	return fault.New(known.Op, known.Kind, known.Subject, l.ended())
}

var _ providers.Provider = (*Storage)(nil)
