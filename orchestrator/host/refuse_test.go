package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/rpc"
)

// TestPins refuses programs that nobody pinned, and those that have changed, with the command that pins.
func TestPins(t *testing.T) {
	config, _ := install(t, "odd")
	path := filepath.Join(config.Folder, Prefix+"odd")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replaceFile := func(content []byte) { // never in place: the file is this test's own
		t.Helper()
		if err := errors.Join(os.Remove(path), os.WriteFile(path, content, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	start := func() error {
		s, err := open(t, config).Start(t.Context(), plans.Storage{Name: "a", Provider: "odd"})
		if err == nil {
			_ = s.Close()
		}
		return err
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	replaceFile(append(content, 0))
	command := "muster provider pin odd --plugins " + config.Folder + " --pins " + config.Pins
	if err := start(); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "has changed") || !strings.Contains(err.Error(), command) {
		t.Errorf("changed: %v", err)
	}
	if err := os.Remove(config.Pins); err != nil {
		t.Fatal(err)
	}
	if err := start(); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "is not pinned") || !strings.Contains(err.Error(), command) {
		t.Errorf("not pinned: %v", err)
	}
	pin(t, config, "odd")
	if err := start(); err != nil {
		t.Errorf("pinned anew: %v", err)
	}
}

// TestChangedWhileRunning lets a program be replaced: what runs goes on, its successor is refused.
func TestChangedWhileRunning(t *testing.T) {
	config, _ := install(t, "odd")
	p := provide(t, open(t, config), plans.Storage{Name: "a", Provider: "odd"})
	pid := pidOf(t, p)
	path := filepath.Join(config.Folder, Prefix+"odd")
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("other"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if pidOf(t, p) != pid {
		t.Error("another process")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := p.Health(t.Context())
		if fault.Is(err, fault.Transient) { // the call met the end itself
			continue
		}
		if !fault.Is(err, fault.Denied) {
			t.Errorf("%v", err)
		}
		return
	}
}

// TestStartsWhatWasHashed puts another program in the place between the hash and the start.
func TestStartsWhatWasHashed(t *testing.T) {
	config, _ := install(t, "odd")
	h := open(t, config)
	p, err := h.folder.open("odd")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(config.Folder, Prefix+"odd")
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("#!/bin/false\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	child, err := newProcess(p, nil, memory)
	if err != nil {
		t.Fatal(err)
	}
	// Removing the name changes the file's change time: the program is the one that was hashed, and refused
	// all the same, since something is going on.
	err = child.Start(t.Context())
	if !fault.Is(err, fault.Denied) {
		t.Errorf("%v", err)
	}
	<-child.exited
}

func TestFolders(t *testing.T) {
	root := t.TempDir()
	file, open, fine := filepath.Join(root, "file"), filepath.Join(root, "open"), filepath.Join(root, "fine")
	err := errors.Join(os.WriteFile(file, nil, 0o644), os.Mkdir(open, 0o755), os.Chmod(open, 0o777), os.Mkdir(fine, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]fault.Kind{
		"plugins": fault.Invalid, file: fault.Invalid, filepath.Join(root, "none"): fault.NotFound, open: fault.Denied,
	} {
		if _, err := Open(t.Context(), Config{Folder: path}); !fault.Is(err, kind) {
			t.Errorf("%s: %v (%s)", path, err, fault.KindOf(err))
		}
	}
}

func TestPrograms(t *testing.T) {
	config, _ := install(t)
	h := open(t, config)
	at := func(name string) string { return filepath.Join(config.Folder, Prefix+name) }
	outside := filepath.Join(t.TempDir(), "outside")
	err := errors.Join(
		os.WriteFile(outside, []byte("x"), 0o755), os.Symlink(outside, at("link")), os.Symlink("/nowhere", at("dangling")),
		os.WriteFile(at("data"), []byte("x"), 0o644), os.WriteFile(at("open"), []byte("x"), 0o755), os.Chmod(at("open"), 0o757),
		os.Mkdir(at("folder"), 0o755), syscall.Mkfifo(at("pipe"), 0o755), os.WriteFile(at("script"), []byte("#!/bin/sh\n"), 0o755),
		os.WriteFile(at("text"), []byte("hello"), 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]fault.Kind{
		"link": fault.Denied, "data": fault.Invalid, "open": fault.Denied, "folder": fault.Invalid, "pipe": fault.Invalid, "script": fault.Invalid,
		"none": fault.NotFound, "../mem": fault.Invalid, "": fault.Invalid, "UPPER": fault.Invalid,
	} {
		if _, err := h.Find(name); !fault.Is(err, kind) {
			t.Errorf("%q: %v (%s)", name, err, fault.KindOf(err))
		}
	}
	if _, err := h.Find("dangling"); err == nil {
		t.Error("a link to nowhere was taken")
	}
	pin(t, config, "text")
	_, err = h.Start(t.Context(), plans.Storage{Name: "a", Provider: "text"})
	if !fault.Is(err, fault.Unsupported) {
		t.Errorf("a text: %v (%s)", err, fault.KindOf(err))
	}
}

func TestReadPins(t *testing.T) {
	digest := strings.Repeat("0f", 32)
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		kind fault.Kind
	}{
		"writable by others":  {"", 0o666, fault.Denied},
		"writable by a group": {"", 0o664, fault.Denied},
		"one word":            {"mem\n", 0o644, fault.Invalid},
		"short":               {"mem 0f\n", 0o644, fault.Invalid},
		"upper case":          {"mem " + strings.ToUpper(digest), 0o644, fault.Invalid},
		"twice":               {"mem " + digest + "\nmem " + digest, 0o644, fault.Invalid},
	} {
		path := filepath.Join(t.TempDir(), "pins")
		if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o644), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPins(path); !fault.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "new", "pins")
	if err := (Pins{"mem": digest}).Write(path); err != nil {
		t.Fatal(err)
	}
	if pins, err := ReadPins(path); err != nil || pins["mem"] != digest || len(pins) != 1 {
		t.Errorf("%v, %v", pins, err)
	}
}

// TestProtocols lets Musters and providers of different age talk at the newest common version.
func TestProtocols(t *testing.T) {
	config, _ := install(t, "v1", "v1to3", "v4to5")
	for _, c := range []struct {
		provider string
		muster   rpc.Range
		spoken   int
		texts    []string
	}{
		{"v1", rpc.Range{Oldest: 1, Newest: 3}, 1, nil},
		{"v1to3", rpc.Range{Oldest: 1, Newest: 1}, 1, nil},
		{"v1to3", rpc.Range{Oldest: 2, Newest: 5}, 3, nil},
		{"v4to5", rpc.Range{Oldest: 1, Newest: 2}, 0, []string{"speaks protocol 4 to 5", "this muster 1 to 2", "upgrade muster"}},
		{"v1", rpc.Range{Oldest: 2, Newest: 3}, 0, []string{"speaks protocol 1,", "this muster 2 to 3", "upgrade the provider"}},
	} {
		t.Run(c.provider+" and "+c.muster.String(), func(t *testing.T) {
			own := config
			own.protocols = c.muster
			s, err := open(t, own).Start(t.Context(), plans.Storage{Name: "a", Provider: c.provider})
			if c.spoken == 0 {
				if !fault.Is(err, fault.Unsupported) {
					t.Fatalf("%v (%s)", err, fault.KindOf(err))
				}
				for _, text := range c.texts {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%v lacks %q", err, text)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Health(t.Context()); err != nil || s.Protocol() != c.spoken {
				t.Errorf("protocol %d, %v", s.Protocol(), err)
			}
		})
	}
}

func TestDoesNotStart(t *testing.T) {
	config, _ := install(t, "exits", "babbles", "alias")
	h := open(t, config)
	for name, c := range map[string]struct {
		kind fault.Kind
		text string
	}{
		"exits":   {fault.Internal, "libbackend.so.1: cannot open"},
		"babbles": {fault.Internal, "no provider"},
		"alias":   {fault.Corrupt, "somebody-else"},
	} {
		_, err := h.Start(t.Context(), plans.Storage{Name: "a", Provider: name})
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%s)", name, err, fault.KindOf(err))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Start(ctx, plans.Storage{Name: "a", Provider: "alias"}); !fault.Is(err, fault.Transient) {
		t.Errorf("a caller that is gone: %v", err)
	}
}

// TestSettings names what is wrong by its path, and never what stands there.
func TestSettings(t *testing.T) {
	config, _ := install(t, "odd")
	h := open(t, config)
	_, err := h.Start(t.Context(), plans.Storage{Name: "fast", Provider: "odd", Settings: map[string]any{"size": 0}})
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("started with wrong settings: %v", err)
	}
	info, err := (&odd{name: "odd"}).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		settings map[string]any
		texts    []string
	}{
		{map[string]any{"pool": "Secret-1"}, []string{"settings.pool does not match ^[a-z]+$"}},
		{map[string]any{"pool": 7}, []string{"settings.pool is of type number, want string"}},
		{map[string]any{"size": 0}, []string{"settings.size is below 1"}},
		{map[string]any{"password": "Secret-2"}, []string{"settings has unknown fields: password"}},
		{map[string]any{"nested": map[string]any{"name": "Secret-3"}}, []string{"settings.nested.name is not one of [a b]"}},
		{map[string]any{"nested": map[string]any{}, "size": "Secret-4"}, []string{"settings.nested lacks name", "settings.size is of type string, want integer"}},
	} {
		_, err := checkSettings("odd", "fast", info.Schema, c.settings)
		if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "Secret") || !strings.Contains(err.Error(), "muster provider info odd") {
			t.Errorf("%v: %v", c.settings, err)
			continue
		}
		for _, text := range c.texts {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%v lacks %q", err, text)
			}
		}
	}
	schema := []byte(`{"$ref": "file:///etc/passwd"}`)
	if _, err := checkSettings("p", "s", schema, nil); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a schema that reads files: %v", err)
	}
}

func TestUnconfigured(t *testing.T) {
	config, _ := install(t, "mem")
	h := open(t, config)
	s, err := h.Unconfigured(t.Context(), "mem")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := s.Info(t.Context()); err != nil || info.Name != "mem" || !info.Can(providers.CapRead) {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := s.Health(t.Context()); err == nil {
		t.Error("a provider without settings is healthy")
	}
	if err := s.Configure(t.Context(), []byte(`{}`)); err != nil {
		t.Error(err)
	}
	if _, err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClosedHost(t *testing.T) {
	config, _ := install(t, "odd")
	h := open(t, config)
	p := provide(t, h, plans.Storage{Name: "a", Provider: "odd"})
	pid := pidOf(t, p)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if !gone(pid) {
		t.Error("the process goes on")
	}
	if _, err := p.Health(t.Context()); err == nil {
		t.Error("a closed provider answers")
	}
	if _, err := h.Provider(t.Context(), plans.Storage{Name: "b", Provider: "odd"}); err == nil {
		t.Error("a closed host starts providers")
	}
}
