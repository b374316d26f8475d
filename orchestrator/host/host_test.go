package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/guard"
	"github.com/musterdr/muster/providers/rpc"
)

// journal is a log that tests read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// await waits for a line that comes in its own time.
func (j *journal) await(t *testing.T, text string) {
	t.Helper()
	for range 60_000 {
		if strings.Contains(j.String(), text) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("the log lacks %q: %s", text, j)
}

// install puts copies of this test into a plugin folder under the names of providers, pins them, and returns
// a host's configuration.
func install(t *testing.T, names ...string) (Config, *journal) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	config := Config{Folder: filepath.Join(root, "plugins"), Pins: filepath.Join(root, "pins"), Now: time.Now, Memory: memory}
	if err := os.Mkdir(config.Folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		copyFile(t, self, filepath.Join(config.Folder, Prefix+name))
	}
	log := &journal{}
	config.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	pin(t, config, names...)
	return config, log
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if os.Link(from, to) == nil { // the same file does, unless a test changes it
		return
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

func pin(t *testing.T, config Config, names ...string) {
	t.Helper()
	h := open(t, config)
	pins := Pins{}
	for _, name := range names {
		found, err := h.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		pins[name] = found.SHA256
	}
	if err := pins.Write(config.Pins); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, config Config) *Host {
	t.Helper()
	h, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func provide(t *testing.T, h *Host, storage plans.Storage) providers.Provider {
	t.Helper()
	p, err := h.Provider(t.Context(), storage)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ask(ctx context.Context, p providers.Provider, what string) error {
	return p.Discover(ctx, providers.Query{Machine: what}, func(providers.Volume) error { return nil })
}

// TestConformance runs the suite over processes, which it kills.
func TestConformance(t *testing.T) {
	config, _ := install(t, "mem")
	h := open(t, config)
	storage := plans.Storage{Name: "mem", Provider: "mem", Settings: map[string]any{
		"folder": t.TempDir(), "regions": []string{"elsewhere"},
	}}
	var mu sync.Mutex
	var last *Storage
	conformancetest.Run(t, conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			s, err := h.Start(ctx, storage)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			last = s
			return s, nil
		},
		Unconfigured: func() (providers.Provider, error) { return h.Unconfigured(t.Context(), "mem") },
		Kill: func() {
			mu.Lock()
			defer mu.Unlock()
			last.Kill()
		},
		CopyTarget: map[string]string{"region": "elsewhere"},
		KillAfter:  []time.Duration{2 * time.Millisecond},
		// The rest is tried over processes by the tests of muster-provider-mem.
		Only: []string{"info", "configure", "handles", "extents", "read", "attach", "killed-snapshot", "killed-write", "killed-read"},
	})
}

func TestOneProcessAStorage(t *testing.T) {
	config, _ := install(t, "odd")
	h := open(t, config)
	one := provide(t, h, plans.Storage{Name: "a", Provider: "odd"})
	same := provide(t, h, plans.Storage{Name: "a", Provider: "odd"})
	other := provide(t, h, plans.Storage{Name: "b", Provider: "odd"})
	if err := one.Close(); err != nil { // others use it still
		t.Error(err)
	}
	if pidOf(t, one) != pidOf(t, same) || pidOf(t, one) == pidOf(t, other) {
		t.Errorf("processes %d, %d, %d", pidOf(t, one), pidOf(t, same), pidOf(t, other))
	}
}

func pidOf(t *testing.T, p providers.Provider) int {
	t.Helper()
	health, err := p.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(health.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestKilledInTheMiddle kills the process during a call, again and again: each call fails as Transient, each
// next one works in a new process.
func TestKilledInTheMiddle(t *testing.T) {
	config, log := install(t, "odd")
	p := provide(t, open(t, config), plans.Storage{Name: "a", Provider: "odd"})
	before := 0
	for range 3 {
		pid := pidOf(t, p)
		if pid == before {
			t.Fatal("the same process")
		}
		before = pid
		ended := make(chan error)
		go func() { ended <- ask(t.Context(), p, "hang") }()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		err := <-ended
		if err == nil { // the kill may come before the call
			continue
		}
		if !fault.Is(err, fault.Transient) {
			t.Errorf("%v (%s)", err, fault.KindOf(err))
		}
	}
	pidOf(t, p)
	if !strings.Contains(log.String(), "signal: killed") {
		t.Errorf("the log does not tell: %s", log)
	}
}

func TestDiesTooOften(t *testing.T) {
	config, _ := install(t, "odd")
	config.Restarts = 1
	p := provide(t, open(t, config), plans.Storage{Name: "a", Provider: "odd"})
	for _, kind := range []fault.Kind{fault.Transient, fault.Transient, fault.Internal} {
		err := ask(t.Context(), p, "panic")
		if !fault.Is(err, kind) {
			t.Errorf("%v (%s), want %s", err, fault.KindOf(err), kind)
		}
		if kind == fault.Transient && !strings.Contains(err.Error(), "panic: on purpose") {
			t.Errorf("the error lacks the last words: %v", err)
		}
	}
}

// outOfMemory are the words of Go's runtime when it gets no memory, for data or for a thread.
var outOfMemory = regexp.MustCompile("memory|pthread_create|new OS thread")

// TestFloodOfMemory lets a provider take all that it can: it alone dies.
func TestFloodOfMemory(t *testing.T) {
	if memory < 0 {
		t.Skip("left out: the race detector needs more than any limit")
	}
	config, _ := install(t, "odd", "mem")
	config.Memory = 256 << 20
	h := open(t, config)
	flooding := provide(t, h, plans.Storage{Name: "a", Provider: "odd"})
	other := provide(t, h, plans.Storage{Name: "b", Provider: "mem"})
	err := ask(t.Context(), flooding, "flood")
	if !fault.Is(err, fault.Transient) || !errors.Is(err, rpc.ErrEnded) || !outOfMemory.MatchString(err.Error()) {
		t.Errorf("%v (%s)", err, fault.KindOf(err))
	}
	if _, err := other.Health(t.Context()); err != nil {
		t.Errorf("the other provider: %v", err)
	}
	if _, err := flooding.Health(t.Context()); err != nil {
		t.Errorf("after its restart: %v", err)
	}
}

func TestHangs(t *testing.T) {
	config, _ := install(t, "odd")
	config.Guard = guard.Config{Silence: 100 * time.Millisecond}
	p := provide(t, open(t, config), plans.Storage{Name: "a", Provider: "odd"})
	pid := pidOf(t, p)
	if err := ask(t.Context(), p, "hang"); !fault.Is(err, fault.Transient) || !errors.Is(err, guard.ErrSilent) {
		t.Errorf("%v", err)
	}
	if pidOf(t, p) != pid {
		t.Error("a provider that answers other calls was ended")
	}
}

func TestStoppedProcessIsReplaced(t *testing.T) {
	config, _ := install(t, "odd")
	config.Guard = guard.Config{Silence: time.Second}
	p := provide(t, open(t, config), plans.Storage{Name: "a", Provider: "odd"})
	pid := pidOf(t, p)
	err := ask(t.Context(), p, "stop")
	for err == nil { // answers may come before it stops
		_, err = p.Health(t.Context())
	}
	if !fault.Is(err, fault.Transient) {
		t.Errorf("%v", err)
	}
	if now := pidOf(t, p); now == pid {
		t.Error("the process was not replaced")
	}
}

// TestCleanEnvironment sees what a provider sees.
func TestCleanEnvironment(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "very-secret-of-the-parent")
	t.Setenv("ODD_TOKEN", "a-secret-that-is-passed-on")
	config, _ := install(t, "odd")
	p := provide(t, open(t, config), plans.Storage{Name: "a", Provider: "odd", Environment: []string{"ODD_TOKEN", "ODD_UNSET"}})
	health, err := p.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"PATH", "HOME", "TMPDIR", "LANG", "GOMEMLIMIT", "ODD_TOKEN", "MUSTER_PROVIDER"}
	for _, variable := range health.Problems {
		name, _, _ := strings.Cut(variable, "=")
		if !slices.Contains(allowed, name) && !strings.HasPrefix(name, "PLUGIN_") {
			t.Errorf("the provider sees %s", variable)
		}
	}
	if all := strings.Join(health.Problems, "\n"); !strings.Contains(all, "ODD_TOKEN=a-secret") || strings.Contains(all, "very-secret") {
		t.Errorf("environment: %s", all)
	}
	if health.Free != 0 || memory > 0 && health.Total != memory>>1 || health.Version != "/" {
		t.Errorf("core limit %d, data limit %d, folder %s", health.Free, health.Total<<1, health.Version)
	}
}

func TestLogAndErrorsAreMasked(t *testing.T) {
	const token = "a-secret-that-is-passed-on"
	t.Setenv("ODD_TOKEN", token)
	config, log := install(t, "odd")
	h := open(t, config)
	p := provide(t, h, plans.Storage{Name: "a", Provider: "odd", Environment: []string{"ODD_TOKEN"}})
	if err := ask(t.Context(), p, "leak"); err == nil || strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), "***") {
		t.Errorf("%v", err)
	}
	if err := ask(t.Context(), p, "log"); err != nil {
		t.Fatal(err)
	}
	log.await(t, "printed line")
	if err := h.Close(); err != nil { // the log is complete then
		t.Fatal(err)
	}
	text := log.String()
	for _, want := range []string{`level=WARN msg="connecting with ***" provider=odd storage=a token=***`, "plain line with ***"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 2*maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if strings.Contains(text, token) {
		t.Error("the log shows the secret")
	}
}

// TestChildrenEnd starts a process below the provider's, and sees it end with it.
func TestChildrenEnd(t *testing.T) {
	config, _ := install(t, "odd")
	h := open(t, config)
	for _, end := range []func(*Storage){func(s *Storage) { _ = s.Close() }, func(s *Storage) { s.Kill() }} {
		s, err := h.Start(t.Context(), plans.Storage{Name: "a", Provider: "odd"})
		if err != nil {
			t.Fatal(err)
		}
		child := 0
		err = s.Discover(t.Context(), providers.Query{Machine: "child"}, func(v providers.Volume) (err error) {
			child, err = strconv.Atoi(v.ID)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		end(s)
		if !gone(child) {
			t.Errorf("child %d is still there", child)
		}
		_ = s.Close()
	}
}

// gone reports whether a process has ended, waited for or not.
func gone(pid int) bool {
	for range 1000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}
