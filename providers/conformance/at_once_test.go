package conformance_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/mem"
)

// watched is a T that sees which cases run at the same time.
type watched struct {
	conformance.T
	mu      sync.Mutex
	running int
	most    int
	killing bool
}

func (w *watched) Run(name string, body func(conformance.T)) bool {
	kills := strings.HasPrefix(name, "killed-")
	w.mu.Lock()
	if w.killing || kills && w.running > 0 {
		w.Errorf("%s runs beside a case although one of them kills a process", name)
	}
	w.running++
	w.most, w.killing = max(w.most, w.running), kills
	w.mu.Unlock()
	passed := w.T.Run(name, body)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	w.killing = false
	return passed
}

// adapted is a test as the suite's T.
type adapted struct{ *testing.T }

func (a adapted) Run(name string, body func(conformance.T)) bool {
	return a.T.Run(name, func(t *testing.T) { body(adapted{t}) })
}

// TestAtOnce holds that an honest provider passes cases that run at once, never more than was asked for, and
// that killing is done alone.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	config := bench(t, mem.Settings{}, nil)
	config.AtOnce, config.Kill, config.KillAfter = 3, func() {}, []time.Duration{0}
	w := &watched{T: adapted{t}}
	conformance.Run(w, config)
	if w.most > 3 {
		t.Errorf("%d cases ran at once, want 3 at most", w.most)
	}
	nothingIsLeft(t, config)
}

// meeting is a provider whose Health and Match wait for each other.
type meeting struct {
	providers.Provider
	health, match func()
}

func (m meeting) Health(ctx context.Context) (providers.Health, error) {
	m.health()
	return m.Provider.Health(ctx)
}

func (m meeting) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	m.match()
	return m.Provider.Match(ctx, pv)
}

// TestAtOnceIsAtOnce holds that two cases which wait for each other come through.
func TestAtOnceIsAtOnce(t *testing.T) {
	t.Parallel()
	one, other := make(chan struct{}), make(chan struct{})
	health, match := sync.OnceFunc(func() { close(one) }), sync.OnceFunc(func() { close(other) })
	config := bench(t, mem.Settings{}, func(p providers.Provider, _ *mem.Backend) providers.Provider {
		return meeting{p, func() { health(); <-other }, func() { match(); <-one }}
	})
	config.AtOnce, config.Only = 2, []string{"health", "match-refuses"}
	for _, r := range conformance.Record(config, nil) {
		if r.Outcome != conformance.Pass {
			t.Errorf("%s: %s", r.Name, r.Reason)
		}
	}
}
