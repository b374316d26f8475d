package gluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/gluster"
	"github.com/musterdr/muster/providers/rpc"
	"github.com/musterdr/muster/providers/rpc/rpctest"
	"github.com/musterdr/muster/testenv"
	lab "github.com/musterdr/muster/testenv/gluster"
)

// shared is the one pool of this package's tests: three peers.
var shared = lab.NewShared("gluster", 1<<30, "gluster-a", "gluster-b", "gluster-c")

// TestMain is also the process that TestOverTheWire starts and kills.
func TestMain(m *testing.M) {
	if rpctest.IsProvider() {
		os.Exit(rpc.Serve(unconfigured()))
	}
	code := m.Run()
	if os.Getuid() == 0 {
		if err := shared.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func need(t *testing.T) *lab.Cluster {
	t.Helper()
	testenv.Need(t)
	c, err := shared.Up(context.Background(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// settings are those of a provider for the pool, whose mounts are in a folder of the test's own.
func settings(c *lab.Cluster, change func(*gluster.Settings)) json.RawMessage {
	s := gluster.Settings{
		SSH:         &gluster.SSH{KeyFile: c.Lab.KeyFile(), KnownHostsFile: c.Lab.KnownHostsFile()},
		MountFolder: shared.MountFolder(), PingSeconds: 5, Endpoints: &gluster.Endpoints{Name: "gluster-lab"},
	}
	for _, peer := range c.Peers {
		s.Peers = append(s.Peers, gluster.Peer{Address: peer.Address})
		s.Bricks = append(s.Bricks, peer.Address+":"+lab.BrickRoot)
	}
	if change != nil {
		change(&s)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return raw
}

func unconfigured() providers.Provider {
	return gluster.New(gluster.Config{Now: time.Now, Version: "test"})
}

func open(ctx context.Context, c *lab.Cluster, change func(*gluster.Settings)) (providers.Provider, error) {
	p := unconfigured()
	if err := p.Configure(ctx, settings(c, change)); err != nil {
		return nil, err
	}
	return p, nil
}

func configured(t *testing.T, c *lab.Cluster, change func(*gluster.Settings)) providers.Provider {
	t.Helper()
	p, err := open(t.Context(), c, change)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%v)", err, fault.KindOf(err))
	}
}

func refused(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("%v (%v), want a refusal as %v", err, fault.KindOf(err), kind)
	}
}

var tokens atomic.Int64

func token(t *testing.T) string { return fmt.Sprintf("%s-%d", t.Name(), tokens.Add(1)) }

// fast are options with which tests needn't wait.
func fast(more map[string]string) map[string]string {
	all := map[string]string{"option.network.ping-timeout": "5"}
	for name, value := range more {
		all[name] = value
	}
	return all
}

// create makes a volume that goes with the test.
func create(t *testing.T, p providers.Provider, size int64, parameters map[string]string) providers.Volume {
	t.Helper()
	v, err := p.Create(t.Context(), providers.CreateRequest{
		Token: token(t), Content: providers.ContentFiles, Size: size, Parameters: parameters, Tags: map[string]string{providers.TagRun: "test"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, deleteVolume(p, v)) })
	return v
}

// deleteVolume waits for what peers that came back have in hand.
func deleteVolume(p providers.Provider, v providers.Volume) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	waited := lab.Await(ctx, func() bool {
		err = p.DeleteVolume(ctx, v.Handle)
		return !fault.Is(err, fault.Busy) && !fault.Is(err, fault.Transient)
	})
	return errors.Join(waited, err)
}

// attach mounts a volume until the test ends.
func attach(t *testing.T, p providers.Provider, v providers.Volume, readOnly bool) providers.Attachment {
	t.Helper()
	a, err := p.Attach(t.Context(), providers.AttachRequest{Token: token(t), Volume: v.Handle, ReadOnly: readOnly})
	must(t, err)
	t.Cleanup(func() { must(t, p.Detach(context.Background(), a.Handle)) })
	return a
}
