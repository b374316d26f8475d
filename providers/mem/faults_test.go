package mem_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/mem"
)

func open(t *testing.T, b *mem.Backend, settings mem.Settings) providers.Provider {
	t.Helper()
	p, err := config(b, settings).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func request(token string) providers.CreateRequest {
	return providers.CreateRequest{
		Token: token, Content: providers.ContentBlocks, Size: 1 << 20, Tags: map[string]string{providers.TagRun: "test"},
	}
}

func blocks(all ...providers.Block) providers.Source {
	return func() (providers.Block, error) {
		if len(all) == 0 {
			return providers.Block{}, io.EOF
		}
		next := all[0]
		all = all[1:]
		return next, nil
	}
}

func TestFaultsCount(t *testing.T) {
	t.Parallel()
	p := open(t, backend(t), mem.Settings{Faults: []mem.Fault{{Call: "Health", After: 1, Times: 2, Kind: "busy"}}})
	for i, wrong := range []bool{false, true, true, false, false} {
		_, err := p.Health(t.Context())
		if fault.Is(err, fault.Busy) != wrong {
			t.Errorf("call %d: %v; expected trouble: %v", i, err, wrong)
		}
	}
}

func TestFaultsOfTheBackend(t *testing.T) {
	t.Parallel()
	b := backend(t)
	p := open(t, b, mem.Settings{})
	b.Fail(mem.Fault{Call: "Create", Kind: "no-space"})
	if _, err := p.Create(t.Context(), request("a")); !fault.Is(err, fault.NoSpace) {
		t.Errorf("expected no space, not %v", err)
	}
	b.Heal()
	if _, err := p.Create(t.Context(), request("a")); err != nil {
		t.Error(err)
	}
}

// TestFaultAtTheEnd holds that the work is done when the answer is lost.
func TestFaultAtTheEnd(t *testing.T) {
	t.Parallel()
	p := open(t, backend(t), mem.Settings{Faults: []mem.Fault{{Call: "Create", At: mem.AtEnd, Times: 1, Kind: "transient"}}})
	if _, err := p.Create(t.Context(), request("a")); !fault.Is(err, fault.Transient) {
		t.Fatalf("expected a transient error, not %v", err)
	}
	count := 0
	err := p.Discover(t.Context(), providers.Query{}, func(providers.Volume) error {
		count++
		return nil
	})
	if err != nil || count != 1 {
		t.Errorf("%d volumes, %v; expected one", count, err)
	}
}

func TestHangEndsWithTheCall(t *testing.T) {
	t.Parallel()
	p := open(t, backend(t), mem.Settings{Faults: []mem.Fault{{Call: "Health", Hang: true}, {Call: "Create", Latency: "1h"}}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Health(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("expected a cancelled call, not %v", err)
	}
	if _, err := p.Create(ctx, request("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("expected a cancelled call, not %v", err)
	}
}

// TestStreamsBreakInTheMiddle holds that a fault of the middle lets one piece pass.
func TestStreamsBreakInTheMiddle(t *testing.T) {
	t.Parallel()
	b := backend(t)
	p := open(t, b, mem.Settings{})
	data := bytes.Repeat([]byte{1}, 64<<10)
	v, err := p.Write(t.Context(), providers.WriteRequest{CreateRequest: request("a")}, blocks(providers.NewBlock(0, data), providers.NewBlock(512<<10, data)))
	if err != nil {
		t.Fatal(err)
	}
	set, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: "s", Volumes: []providers.Handle{v.Handle}})
	if err != nil {
		t.Fatal(err)
	}
	b.Fail(mem.Fault{Call: "Read", At: mem.AtMiddle, Kind: "denied"}, mem.Fault{Call: "Write", At: mem.AtMiddle, Kind: "denied"})
	pieces := 0
	err = p.Read(t.Context(), providers.ReadRequest{
		Snapshot: set.Snapshots[0].Handle, Extents: []providers.Extent{{Offset: 0, Length: 512}, {Offset: 4096, Length: 512}},
	}, func(providers.Block) error {
		pieces++
		return nil
	})
	if !fault.Is(err, fault.Denied) || pieces != 1 {
		t.Errorf("%v after %d pieces; expected a denied call after one", err, pieces)
	}
	taken := 0
	_, err = p.Write(t.Context(), providers.WriteRequest{CreateRequest: request("b")}, func() (providers.Block, error) {
		taken++
		return providers.NewBlock(int64(taken)<<16, data), nil
	})
	if !fault.Is(err, fault.Denied) || taken != 1 {
		t.Errorf("%v after %d blocks; expected a denied call after one", err, taken)
	}
}

func TestSettingsRefused(t *testing.T) {
	t.Parallel()
	for _, settings := range []string{
		``, `null`, `{"folder":"relative"}`, `{"faults":[{"kind":"busy"}]}`, `{"faults":[{"call":"Read","kind":"odd"}]}`,
		`{"faults":[{"call":"Read","at":"odd"}]}`, `{"faults":[{"call":"Read","latency":"odd"}]}`, `{"faults":[{"call":"Read","corrupt":"odd"}]}`, `{}{}`,
	} {
		p := mem.New(mem.Config{Now: time.Now})
		if err := p.Configure(t.Context(), []byte(settings)); !fault.Is(err, fault.Invalid) {
			t.Errorf("settings %s: %v; expected a refusal", settings, err)
		}
	}
	p := mem.New(mem.Config{Now: time.Now})
	if _, err := p.Health(t.Context()); !fault.Is(err, fault.Invalid) {
		t.Errorf("before Configure: %v; expected a refusal", err)
	}
}

// TestSweep holds that what dead processes left goes, and what living ones make stays.
func TestSweep(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b, err := mem.Open(folder, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, b, mem.Settings{Folder: folder})
	v, err := p.Create(t.Context(), request("a"))
	if err != nil {
		t.Fatal(err)
	}
	dead, living := filepath.Join(folder, "images", "dead"), filepath.Join(folder, "images", "living")
	for _, path := range []string{dead, living} {
		if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(path+".lock", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.Open(living + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := p.DeleteVolume(t.Context(), v.Handle); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("what a dead process left is still there")
	}
	if _, err := os.Stat(living); err != nil {
		t.Errorf("what a living process makes is gone: %v", err)
	}
}

// TestContentGoesWithWhatUsesIt holds that images and trees are removed with the last volume or snapshot.
func TestContentGoesWithWhatUsesIt(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b, err := mem.Open(folder, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, b, mem.Settings{Folder: folder})
	v, err := p.Write(t.Context(), providers.WriteRequest{CreateRequest: request("a")}, blocks(providers.NewBlock(0, []byte("old"))))
	if err != nil {
		t.Fatal(err)
	}
	set, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: "s", Volumes: []providers.Handle{v.Handle}, Tags: map[string]string{providers.TagRun: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteAt(t.Context(), v.ID, 3, []byte("new")); err != nil {
		t.Fatal(err)
	}
	for removed, remove := range []func() error{
		func() error { return p.DeleteSnapshot(t.Context(), set.Snapshots[0].Handle) },
		func() error { return p.DeleteVolume(t.Context(), v.Handle) },
	} {
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Join(folder, "images"))
		if err != nil || len(entries) != 1-removed {
			t.Errorf("%d images are left, %v; expected %d", len(entries), err, 1-removed)
		}
	}
}
