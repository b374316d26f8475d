package guard

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHonestProviderPasses runs the suite through a guard, which must find nothing.
func TestHonestProviderPasses(t *testing.T) {
	backend, err := mem.NewBackend(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Close() })
	fresh := func() (providers.Provider, error) {
		return New(context.Background(), mem.New(mem.Config{Now: time.Now, Backend: backend}), Config{Name: "mem"})
	}
	conformancetest.Run(t, conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			p, err := fresh()
			if err != nil {
				return nil, err
			}
			return p, p.Configure(ctx, json.RawMessage(`{"regions": ["elsewhere"]}`))
		},
		Unconfigured: fresh, CopyTarget: map[string]string{"region": "elsewhere"},
	})
}

func TestHonestAnswersPass(t *testing.T) {
	g, err := New(t.Context(), honest(), Config{Name: "liar"})
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range calls() {
		if name == "by tag" || name == "list of w" { // their answers are lies to these questions
			continue
		}
		if err := call(t.Context(), g); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLies holds one lie a case. The error names the provider, the call and the contract.
func TestLies(t *testing.T) {
	for _, c := range []struct {
		name, call, text string
		lie              func(*liar)
	}{
		{"a checksum", "read", "checksum", func(l *liar) { l.blocks[0].CRC++ }},
		{"a bit", "read", "checksum", func(l *liar) { l.blocks[0].Data = []byte("0133") }},
		{"short data", "read", "another length", func(l *liar) { l.blocks[0].Data = l.blocks[0].Data[:3] }},
		{"data of zeros", "read", "zeros and has data", func(l *liar) { l.blocks[1].Data = []byte("0000") }},
		{"a short read", "read", "short", func(l *liar) { l.blocks = l.blocks[:2] }},
		{"nothing read", "read", "short", func(l *liar) { l.blocks = nil }},
		{"blocks out of order", "read", "comes next", func(l *liar) { l.blocks[0], l.blocks[1] = l.blocks[1], l.blocks[0] }},
		{"a block twice", "read", "comes next", func(l *liar) { l.blocks = append(l.blocks[:1], l.blocks...) }},
		{"a block outside", "read", "comes next", func(l *liar) { l.blocks = append(l.blocks, providers.NewBlock(64, []byte("x"))) }},
		{"a block that is too long", "read", "comes next", func(l *liar) { l.blocks[1].Length = 5 }},
		{"a block below zero", "read", "comes next", func(l *liar) { l.blocks[0].Offset = -4 }},
		{"a huge block", "read", "larger", func(l *liar) { l.blocks[0] = providers.NewBlock(0, make([]byte, providers.MaxBlock+1)) }},
		{"blocks of nothing without end", "read", "is none", func(l *liar) { l.blocks, l.endless = []providers.Block{providers.NewBlock(0, nil)}, true }},
		{"a negative extent", "extents", "is none", func(l *liar) { l.extents[0][0].Offset = -1 }},
		{"an empty extent", "extents", "is none", func(l *liar) { l.extents[0][0].Length = 0 }},
		{"an extent that overflows", "changed", "is none", func(l *liar) { l.extents[1][0] = providers.Extent{Offset: math.MaxInt64 - 1, Length: 8} }},
		{"an extent beyond", "extents", "beyond", func(l *liar) { l.extents[1][0].Length = 1 << 20 }},
		{"extents that overlap", "changed", "overlaps", func(l *liar) { l.extents[1][0].Offset = 4095 }},
		{"extents out of order", "extents", "out of order", func(l *liar) { l.extents[0], l.extents[1] = l.extents[1], l.extents[0] }},
		{"too many extents", "extents", "at once", func(l *liar) { l.extents[0] = make([]providers.Extent, providers.MaxExtents+1) }},
		{"lists of nothing", "extents", "without end", func(l *liar) { l.extents, l.endless = [][]providers.Extent{nil}, true }},
		{"too few snapshots", "snapshot", "0 snapshots of 1", func(l *liar) { l.set.Snapshots = nil }},
		{"too many snapshots", "snapshot", "2 snapshots of 1", func(l *liar) { l.set.Snapshots = l.snapshots }},
		{"another volume's snapshot", "snapshot", "in the place of", func(l *liar) { l.set.Snapshots = l.snapshots[1:] }},
		{"not of one instant", "snapshot", "one instant", func(l *liar) { l.set.Atomic = false }},
		{"a skew of one instant", "snapshot", "skew", func(l *liar) { l.set.Skew = time.Second }},
		{"a negative skew", "snapshot", "skew", func(l *liar) { l.set.Skew = -1 }},
		{"a snapshot of other tags", "list of w", "not what was asked", nil},
		{"a snapshot twice", "list", "twice", func(l *liar) { l.snapshots[1] = l.snapshots[0] }},
		{"a negative snapshot", "copy", "-1 bytes", func(l *liar) { l.snapshot.Size = -1 }},
		{"a volume too small", "create", "were asked for", func(l *liar) { l.volume.Size-- }},
		{"a written volume too small", "write", "were asked for", func(l *liar) { l.volume.Size-- }},
		{"a volume of files", "create", "blocks were asked for", func(l *liar) { l.volume.Content = providers.ContentFiles }},
		{"a negative volume", "volume", "bytes", func(l *liar) { l.volume.Size = -1 }},
		{"a content", "match", "content", func(l *liar) { l.volume.Content = "objects" }},
		{"no ID", "volume", "without an ID", func(l *liar) { l.volume.ID = "" }},
		{"no handle", "clone", "without a handle", func(l *liar) { l.volume.Handle = providers.Handle{} }},
		{"another's handle", "volume", "handle of the provider", func(l *liar) { l.volume.Handle.Provider = "ceph" }},
		{"a huge handle", "volume", "handle of 4097 bytes", func(l *liar) { l.volume.Handle.State = make([]byte, providers.MaxHandle+1) }},
		{"a huge ID", "volume", "name of", func(l *liar) { l.volume.ID = strings.Repeat("v", maxName+1) }},
		{"an ID for terminals", "volume", "no text", func(l *liar) { l.volume.ID = "v\x1b[2J" }},
		{"a huge parameter", "volume", "parameters", func(l *liar) { l.volume.Parameters = map[string]string{"data": strings.Repeat("x", 2<<20)} }},
		{"too many tags", "volume", "1001 tags", func(l *liar) { l.volume.Tags = many(1001) }},
		{"a volume twice", "discover", "twice", func(l *liar) { l.volumes[1] = l.volumes[0] }},
		{"a volume of other tags", "by tag", "not what was asked", nil},
		{"volumes without end", "discover", "more than 100", func(l *liar) { l.endless = true }},
		{"a relative path", "attach", "absolute", func(l *liar) { l.attachment.Path = "tmp" }},
		{"a path upwards", "attach", "absolute", func(l *liar) { l.attachment.Path = "/tmp/../etc" }},
		{"the root", "attach", "absolute", func(l *liar) { l.attachment.Path = "/" }},
		{"a path that is not there", "attach snapshot", "not a folder", func(l *liar) { l.attachment.Path = "/nowhere/at/all" }},
		{"a file", "attach", "not a folder", func(l *liar) { l.attachment.Path = "/etc/passwd" }},
		{"a folder outside", "changes", "inside", func(l *liar) { l.paths[1] = []string{"../etc"} }},
		{"an absolute folder", "changes", "inside", func(l *liar) { l.paths[1] = []string{"/etc"} }},
		{"folders without end", "changes", "more than 1000", func(l *liar) { l.endless = true }},
		{"a machine twice", "machines", "twice", func(l *liar) { l.machines = append(l.machines, l.machines[0]) }},
		{"a machine without a handle", "create machine", "handle", func(l *liar) { l.machine.Handle = providers.Handle{} }},
		{"another claim", "bind", "claim", func(l *liar) { l.bound.Spec.ClaimRef = &corev1.ObjectReference{Name: "other"} }},
		{"no volume bound", "bind", "claim", func(l *liar) { l.bound = nil }},
		{"negative space", "health", "bytes free", func(l *liar) { l.health.Free = -2 }},
		{"endless problems", "health", "1001", func(l *liar) { l.health.Problems = make([]string, 1001) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := honest()
			g, err := New(t.Context(), l, Config{List: 100, Paths: 1000})
			if err != nil {
				t.Fatal(err)
			}
			if c.lie != nil {
				c.lie(l)
			}
			err = calls()[c.call](t.Context(), g)
			if !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), " liar: ") {
				t.Errorf("%v (%s)", err, fault.KindOf(err))
			}
		})
	}
}

func TestInfo(t *testing.T) {
	for name, change := range map[string]func(*providers.Info){
		"another name": func(i *providers.Info) { i.Name = "ceph" },
		"a path":       func(i *providers.Info) { i.Name = "../liar" },
		"no name":      func(i *providers.Info) { i.Name = "" },
		"the schema":   func(i *providers.Info) { i.Schema = json.RawMessage("{") },
		"the version":  func(i *providers.Info) { i.Version = "1\n2" },
		"many":         func(i *providers.Info) { i.Capabilities = make([]providers.Capability, 2000) },
	} {
		l := honest()
		change(&l.info)
		if _, err := New(t.Context(), l, Config{Name: "liar"}); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCapabilities refuses each call that needs a capability before it reaches the provider.
func TestCapabilities(t *testing.T) {
	free := map[string]bool{"health": true, "volume": true, "match": true, "bind": true, "delete volume": true}
	l := honest()
	l.info.Capabilities = nil
	g, err := New(t.Context(), l, Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range calls() {
		err := call(t.Context(), g)
		if free[name] {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "muster provider info liar") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// mute answers when its context ends, or after something else happened.
type mute struct {
	*liar
	wait func(context.Context) error
}

func (m *mute) Volume(ctx context.Context, _ providers.Handle) (providers.Volume, error) {
	return m.volume, m.wait(ctx)
}

func (m *mute) Discover(ctx context.Context, _ providers.Query, each func(providers.Volume) error) error {
	if err := each(m.volume); err != nil {
		return err
	}
	return m.wait(ctx)
}

func muted(t *testing.T, wait func(context.Context) error) *Guard {
	t.Helper()
	g, err := New(t.Context(), &mute{liar: honest(), wait: wait}, Config{Silence: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestSilenceIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := muted(t, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		for _, name := range []string{"volume", "discover"} {
			err := calls()[name](t.Context(), g)
			if !fault.Is(err, fault.Transient) || !errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), "1m0s") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestProgressIsALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := muted(t, func(ctx context.Context) error {
			for range 10 {
				time.Sleep(50 * time.Second)
				providers.Report(ctx, providers.Progress{Done: -1, Text: "copying\x1b[2J"})
			}
			return ctx.Err()
		})
		var got providers.Progress
		ctx := providers.WithProgress(t.Context(), func(p providers.Progress) { got = p })
		if err := calls()["volume"](ctx, g); err != nil {
			t.Error(err)
		}
		if got.Text != "copying [2J" || got.Done != 0 {
			t.Errorf("progress %+v", got)
		}
	})
}

// TestOurOwnTimeDoesNotCount lets the consumer take longer than the provider may.
func TestOurOwnTimeDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := muted(t, func(ctx context.Context) error { return ctx.Err() })
		err := g.Discover(t.Context(), providers.Query{}, func(providers.Volume) error { time.Sleep(time.Hour); return nil })
		if err != nil {
			t.Error(err)
		}
		blocks := 0
		_, err = g.Write(t.Context(), providers.WriteRequest{}, func() (providers.Block, error) {
			if blocks++; blocks > 3 {
				return providers.Block{}, io.EOF
			}
			time.Sleep(time.Hour)
			return providers.NewBlock(int64(blocks), []byte("x")), nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestCallersCancelIsNotSilence(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := muted(t, func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() })
	if err := calls()["volume"](ctx, g); !errors.Is(err, context.Canceled) || errors.Is(err, ErrSilent) {
		t.Error(err)
	}
}
