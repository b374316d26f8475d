package gluster_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/gluster"
	"github.com/musterdr/muster/providers/rpc"
	lab "github.com/musterdr/muster/testenv/gluster"
)

// asProvider has the test's binary be the provider.
const asProvider = "MUSTER_TEST_AS_PROVIDER"

// processes starts providers as processes of their own, and kills the newest.
type processes struct {
	cluster *lab.Cluster

	mu     sync.Mutex
	newest *plugin.Client
	pid    *os.Process
}

// remote is a provider in a process of its own.
type remote struct {
	*rpc.Client
	plugin *plugin.Client
}

func (r *remote) Close() error {
	_ = r.Client.Close() // it may be dead
	r.plugin.Kill()
	return nil
}

func (s *processes) start() (*remote, error) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), asProvider+"=1")
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: rpc.Handshake(), VersionedPlugins: rpc.Plugins(gluster.Name, rpc.Protocols()), Cmd: command, AutoMTLS: true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, GRPCDialOptions: rpc.DialOptions(),
		Logger: hclog.New(&hclog.LoggerOptions{Output: io.Discard}),
	})
	protocol, err := client.Client()
	if err != nil {
		client.Kill()
		return nil, err
	}
	p, err := rpc.Dispense(protocol)
	if err != nil {
		client.Kill()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest, s.pid = client, command.Process
	return &remote{p, client}, nil
}

func (s *processes) open(ctx context.Context) (providers.Provider, error) {
	p, err := s.start()
	if err != nil {
		return nil, err
	}
	if err := p.Configure(ctx, settings(s.cluster, plain)); err != nil {
		p.plugin.Kill()
		return nil, err
	}
	return p, nil
}

func (s *processes) kill() {
	s.mu.Lock()
	newest, pid := s.newest, s.pid
	s.mu.Unlock()
	_ = pid.Kill()
	newest.Kill() // waits for its end
}

// TestOverTheWire runs what a wire, or a death, can change, against real processes that it kills.
func TestOverTheWire(t *testing.T) {
	c := need(t)
	t.Parallel()
	s := &processes{cluster: c}
	conformancetest.Run(t, conformance.Config{
		Open:         s.open,
		Unconfigured: func() (providers.Provider, error) { return s.start() },
		Kill:         s.kill,
		Contents:     []providers.Content{providers.ContentFiles},
		Size:         64 << 20,
		Parameters:   map[providers.Content]map[string]string{providers.ContentFiles: fast(map[string]string{"layout": "distribute"})},
		KillAfter:    []time.Duration{0, 200 * time.Millisecond},
		Only:         []string{"info", "configure", "health", "attach", "killed-"},
	})
}
