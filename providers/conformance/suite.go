package conformance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
)

func (c Config) withDefaults() Config {
	set(&c.Size, 16<<20)
	set(&c.Align, 1)
	set(&c.Patience, 2*time.Minute)
	set(&c.Soon, 10*time.Second)
	set(&c.AtOnce, 1)
	set(&c.Run, "conformance-"+random())
	if c.OpenCopies == nil {
		c.OpenCopies = c.Open
	}
	if c.KillAfter == nil {
		c.KillAfter = []time.Duration{0, 2 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond}
	}
	return c
}

func set[V comparable](value *V, otherwise V) {
	var zero V
	if *value == zero {
		*value = otherwise
	}
}

func random() string {
	raw := make([]byte, 6)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)
}

// suite is one run against one backend.
type suite struct {
	config   Config
	provider providers.Provider
	info     providers.Info

	mu      sync.Mutex         // a case that was left behind may still be running
	second  providers.Provider // see other
	shared  *fixture           // of the cases that only look
	lasting rubbish            // made for it
	making  sync.Mutex         // of whoever makes it
}

func newSuite(config Config) (*suite, error) {
	ctx, cancel := context.WithTimeout(context.Background(), config.Patience)
	defer cancel()
	provider, err := config.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the provider: %w", err)
	}
	info, err := provider.Info(ctx)
	if err != nil {
		_ = provider.Close()
		return nil, fmt.Errorf("info: %w", err)
	}
	return &suite{config: config, provider: provider, info: info}, nil
}

func (s *suite) secondClient(ctx context.Context) (providers.Provider, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.second != nil {
		return s.second, nil
	}
	p, err := s.config.Open(ctx)
	if err == nil {
		s.second = p
	}
	return p, err
}

func (s *suite) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.provider.Close()
	if s.second != nil {
		_ = s.second.Close()
	}
}

// contents are those that are tried.
func (s *suite) contents() []providers.Content {
	if len(s.config.Contents) > 0 {
		return s.config.Contents
	}
	var all []providers.Content
	if s.info.Can(providers.CapRead) || s.info.Can(providers.CapWrite) {
		all = append(all, providers.ContentBlocks)
	}
	if s.info.Can(providers.CapFiles) {
		all = append(all, providers.ContentFiles)
	}
	if len(all) == 0 {
		all = append(all, providers.ContentBlocks)
	}
	return all
}

// trial is one promise of the contract.
type trial struct {
	name  string
	needs []providers.Capability
	// of are the contents that it is about; nil: none in particular, it runs once.
	of   []providers.Content
	body func(c *scope)
	// alone is for cases that kill the provider that was opened last: it must be their own.
	alone bool
}

func (s *suite) runAll(t T, all []trial) {
	t.Helper()
	var running sync.WaitGroup
	places := make(chan struct{}, s.config.AtOnce)
	for _, c := range all {
		if !s.chosen(c) {
			continue
		}
		if c.alone {
			running.Wait()
		}
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			s.runCase(t, c)
		})
		if c.alone {
			running.Wait()
		}
	}
	running.Wait()
}

func (s *suite) chosen(c trial) bool {
	begins := func(prefix string) bool { return strings.HasPrefix(c.name, prefix) }
	return len(s.config.Only) == 0 || slices.ContainsFunc(s.config.Only, begins)
}

func (s *suite) runCase(t T, c trial) {
	t.Helper()
	if c.of == nil {
		t.Run(c.name, func(t T) { s.runIn(t, c, "") })
		return
	}
	for _, content := range c.of {
		t.Run(c.name+"/"+string(content), func(t T) { s.runIn(t, c, content) })
	}
}

func (s *suite) runIn(t T, c trial, content providers.Content) {
	t.Helper()
	for _, capability := range c.needs {
		if !s.info.Can(capability) {
			t.Skipf("the provider does not claim %q", capability)
		}
	}
	if content != "" && !slices.Contains(s.contents(), content) {
		t.Skipf("volumes of %s are not tried: the provider has none, or the configuration leaves them out", content)
	}
	newScope(s, t, c.name, content).run(c.body)
}
