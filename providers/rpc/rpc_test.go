package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect serves a provider over real gRPC in this process.
func connect(t testing.TB, provider providers.Provider) *Client {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := NewServer(nil)
	Register(server, provider, Protocols())
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	options := append(DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	conn, err := grpc.NewClient("passthrough:///provider", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return NewClient(conn, "mem")
}

func TestConformance(t *testing.T) {
	backend, err := mem.NewBackend(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Close() })
	fresh := func() providers.Provider { return connect(t, mem.New(mem.Config{Now: time.Now, Backend: backend})) }
	conformancetest.Run(t, conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			p := fresh()
			return p, p.Configure(ctx, json.RawMessage(`{"regions": ["elsewhere"]}`))
		},
		Unconfigured: func() (providers.Provider, error) { return fresh(), nil }, CopyTarget: map[string]string{"region": "elsewhere"},
	})
}

// scripted answers some calls as a test wants.
type scripted struct {
	providers.Unsupported
	volume   func(context.Context) (providers.Volume, error)
	discover func(context.Context, func(providers.Volume) error) error
	write    func(context.Context, providers.WriteRequest, providers.Source) (providers.Volume, error)
	changes  func(func([]string) error) error
}

func (s *scripted) Info(context.Context) (providers.Info, error) {
	return providers.Info{Name: "scripted"}, nil
}
func (s *scripted) Configure(context.Context, json.RawMessage) error { return nil }
func (s *scripted) Health(context.Context) (providers.Health, error) { return providers.Health{}, nil }
func (s *scripted) Close() error                                     { return nil }

func (s *scripted) Volume(ctx context.Context, _ providers.Handle) (providers.Volume, error) {
	return s.volume(ctx)
}

func (s *scripted) Discover(ctx context.Context, _ providers.Query, each func(providers.Volume) error) error {
	return s.discover(ctx, each)
}

func (s *scripted) Write(ctx context.Context, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	return s.write(ctx, r, source)
}

func (s *scripted) Changes(_ context.Context, _ providers.ChangesRequest, each func([]string) error) error {
	return s.changes(each)
}

// TestErrorsKeepTheirParts sends every kind, in every form that an error has.
func TestErrorsKeepTheirParts(t *testing.T) {
	s := &scripted{}
	client := connect(t, s)
	for kind := fault.Internal; kind <= fault.NoSpace; kind++ {
		for _, sent := range []error{
			fault.Newf("open pool", kind, "rbd", "there is no %s: ceph osd pool create", "pool"),
			fault.New("open pool", kind, "rbd", nil),
			fault.New("", kind, "", errors.New("only text, with \"quotes\" and\nlines")),
		} {
			s.volume = func(context.Context) (providers.Volume, error) { return providers.Volume{}, sent }
			s.discover = func(context.Context, func(providers.Volume) error) error { return sent }
			_, unary := client.Volume(t.Context(), providers.Handle{})
			streamed := client.Discover(t.Context(), providers.Query{}, nil)
			for _, got := range []error{unary, streamed} {
				if got == nil || got.Error() != sent.Error() || fault.KindOf(got) != kind {
					t.Errorf("sent %v (%s), got %v (%s)", sent, kind, got, fault.KindOf(got))
				}
			}
		}
	}
}

func TestErrorsThatAreNoFaults(t *testing.T) {
	s := &scripted{}
	client := connect(t, s)
	for _, c := range []struct {
		sent error
		kind fault.Kind
		is   error
		text string
	}{
		{errors.New("plain"), fault.Internal, nil, "plain"},
		{fmt.Errorf("around: %w", fault.Newf("op", fault.NoSpace, "s", "full")), fault.NoSpace, nil, "around: op s: full"},
		{context.Canceled, fault.Transient, context.Canceled, "canceled"},
		{fmt.Errorf("call: %w", context.DeadlineExceeded), fault.Transient, context.DeadlineExceeded, "call: "},
		{fault.New("op", fault.Transient, "s", context.DeadlineExceeded), fault.Transient, context.DeadlineExceeded, "op s: "},
		{fault.Newf("op", fault.Invalid, "s", "not \xff UTF-8"), fault.Invalid, nil, "UTF-8"},
		{fault.Newf("op", fault.Invalid, "s", "%s", strings.Repeat("x", 1<<20)), fault.Invalid, nil, "xxx…"},
	} {
		s.volume = func(context.Context) (providers.Volume, error) { return providers.Volume{}, c.sent }
		_, got := client.Volume(t.Context(), providers.Handle{})
		if !fault.Is(got, c.kind) || !strings.Contains(got.Error(), c.text) || c.is != nil && !errors.Is(got, c.is) {
			t.Errorf("sent %.80v, got %.80v (%s)", c.sent, got, fault.KindOf(got))
		}
	}
}

func TestUnknownKindIsInternal(t *testing.T) {
	s := &scripted{volume: func(context.Context) (providers.Volume, error) {
		return providers.Volume{}, fault.Newf("op", fault.Kind(200), "s", "of tomorrow")
	}}
	_, err := connect(t, s).Volume(t.Context(), providers.Handle{})
	if !fault.Is(err, fault.Internal) || err.Error() != "op s: of tomorrow" {
		t.Errorf("got %v (%s)", err, fault.KindOf(err))
	}
}

func TestPanicIsAnError(t *testing.T) {
	s := &scripted{
		volume:   func(context.Context) (providers.Volume, error) { panic("on purpose") },
		discover: func(context.Context, func(providers.Volume) error) error { panic("on purpose") },
	}
	client := connect(t, s)
	_, unary := client.Volume(t.Context(), providers.Handle{})
	streamed := client.Discover(t.Context(), providers.Query{}, nil)
	for _, err := range []error{unary, streamed} {
		if !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), "on purpose") {
			t.Errorf("got %v", err)
		}
	}
	if _, err := client.Info(t.Context()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

// TestCancelReachesTheProvider cancels calls of every shape, and gets the caller's own error back.
func TestCancelReachesTheProvider(t *testing.T) {
	stopped := make(chan error, 1)
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		stopped <- ctx.Err()
		return ctx.Err()
	}
	began := make(chan struct{}, 1)
	s := &scripted{
		volume: func(ctx context.Context) (providers.Volume, error) {
			began <- struct{}{}
			return providers.Volume{}, wait(ctx)
		},
		discover: func(ctx context.Context, _ func(providers.Volume) error) error { began <- struct{}{}; return wait(ctx) },
		write: func(ctx context.Context, _ providers.WriteRequest, _ providers.Source) (providers.Volume, error) {
			began <- struct{}{}
			return providers.Volume{}, wait(ctx)
		},
	}
	client := connect(t, s)
	for name, call := range map[string]func(context.Context) error{
		"unary":  func(ctx context.Context) error { _, err := client.Volume(ctx, providers.Handle{}); return err },
		"stream": func(ctx context.Context) error { return client.Discover(ctx, providers.Query{}, nil) },
		"write": func(ctx context.Context) error {
			_, err := client.Write(ctx, providers.WriteRequest{}, func() (providers.Block, error) { return providers.Block{}, io.EOF })
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-began; cancel() }()
		err := call(ctx)
		if !fault.Is(err, fault.Transient) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v (%s)", name, err, fault.KindOf(err))
		}
		if err := <-stopped; err == nil {
			t.Errorf("%s: the provider was not told", name)
		}
		cancel()
	}
}

func TestEachEndsTheCall(t *testing.T) {
	stopped := make(chan struct{})
	s := &scripted{discover: func(_ context.Context, each func(providers.Volume) error) error {
		defer close(stopped)
		for {
			if err := each(providers.Volume{ID: "v"}); err != nil {
				return err
			}
		}
	}}
	enough := errors.New("enough")
	err := connect(t, s).Discover(t.Context(), providers.Query{}, func(providers.Volume) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	<-stopped
}

// TestProgress sees the last report of a call before its answer, whatever was dropped before.
func TestProgress(t *testing.T) {
	s := &scripted{discover: func(ctx context.Context, each func(providers.Volume) error) error {
		for i := range int64(10000) {
			providers.Report(ctx, providers.Progress{Done: i + 1, Total: 10000, Text: "counting"})
		}
		return each(providers.Volume{ID: "v"})
	}}
	var mu sync.Mutex
	var last providers.Progress
	ctx := providers.WithProgress(t.Context(), func(p providers.Progress) {
		mu.Lock()
		defer mu.Unlock()
		last = p
	})
	err := connect(t, s).Discover(ctx, providers.Query{}, func(providers.Volume) error {
		mu.Lock()
		defer mu.Unlock()
		if last.Done != 10000 || last.Total != 10000 || last.Text != "counting" {
			t.Errorf("before the answer: %+v", last)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestSourceFails ends the provider's call when the caller's source does, with the source's own error.
func TestSourceFails(t *testing.T) {
	began, provider := make(chan struct{}), make(chan error, 1)
	s := &scripted{write: func(_ context.Context, _ providers.WriteRequest, source providers.Source) (providers.Volume, error) {
		close(began)
		for {
			if _, err := source(); err != nil {
				provider <- err
				return providers.Volume{}, err
			}
		}
	}}
	gone := errors.New("the repository is gone")
	blocks := 0
	_, err := connect(t, s).Write(t.Context(), providers.WriteRequest{}, func() (providers.Block, error) {
		if blocks++; blocks > 3 {
			<-began // a call that is given up before the provider has heard of it never begins there
			return providers.Block{}, gone
		}
		return providers.NewBlock(int64(blocks), []byte("data")), nil
	})
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if err := <-provider; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the provider took a broken stream for a whole one: %v", err)
	}
}

// TestWriteIsBounded lets nobody read: the caller's source is asked for a few blocks and no more.
func TestWriteIsBounded(t *testing.T) {
	release := make(chan struct{})
	s := &scripted{write: func(_ context.Context, _ providers.WriteRequest, source providers.Source) (providers.Volume, error) {
		<-release
		for {
			if _, err := source(); err != nil {
				return providers.Volume{ID: "v"}, nil
			}
		}
	}}
	data := make([]byte, providers.MaxBlock)
	asked := make(chan struct{}, 1000)
	ended := make(chan error, 1)
	client := connect(t, s)
	go func() {
		sent := 0
		_, err := client.Write(t.Context(), providers.WriteRequest{}, func() (providers.Block, error) {
			asked <- struct{}{}
			if sent++; sent > 100 {
				return providers.Block{}, io.EOF
			}
			return providers.NewBlock(int64(sent)*providers.MaxBlock, data), nil
		})
		ended <- err
	}()
	for range 2 {
		<-asked
	}
	if n := len(asked); n > 6 {
		t.Errorf("%d blocks are under way", n)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLargestBlockFits(t *testing.T) {
	s := &scripted{write: func(_ context.Context, _ providers.WriteRequest, source providers.Source) (providers.Volume, error) {
		b, err := source()
		if err != nil || len(b.Data) != providers.MaxBlock {
			return providers.Volume{}, fmt.Errorf("%d bytes: %w", len(b.Data), err)
		}
		zero, err := source()
		return providers.Volume{ID: "v", Size: zero.End()}, err
	}}
	blocks := []providers.Block{providers.NewBlock(0, make([]byte, providers.MaxBlock)), providers.ZeroBlock(providers.MaxBlock, 1<<40)}
	volume, err := connect(t, s).Write(t.Context(), providers.WriteRequest{}, func() (providers.Block, error) {
		if len(blocks) == 0 {
			return providers.Block{}, io.EOF
		}
		next := blocks[0]
		blocks = blocks[1:]
		return next, nil
	})
	if err != nil || volume.Size != providers.MaxBlock+1<<40 {
		t.Errorf("%+v, %v", volume, err)
	}
	_, err = connect(t, s).Write(t.Context(), providers.WriteRequest{}, func() (providers.Block, error) {
		return providers.NewBlock(0, make([]byte, providers.MaxBlock+1)), nil
	})
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("a block that is too large: %v", err)
	}
}

// TestPaths carries names that are not UTF-8, and more than fit into one message.
func TestPaths(t *testing.T) {
	long := strings.Repeat("d", 4000)
	s := &scripted{changes: func(each func([]string) error) error {
		if err := each([]string{".", "caf\xe9"}); err != nil {
			return err
		}
		many := make([]string, 10000)
		for i := range many {
			many[i] = long
		}
		return each(many)
	}}
	var all []string
	err := connect(t, s).Changes(t.Context(), providers.ChangesRequest{}, func(paths []string) error {
		all = append(all, paths...)
		return nil
	})
	if err != nil || len(all) != 10002 || all[1] != "caf\xe9" || all[10001] != long {
		t.Errorf("%d paths, %v", len(all), err)
	}
}
