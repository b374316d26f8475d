package main

import (
	"context"
	"encoding/json"
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
	"github.com/musterdr/muster/providers/mem"
	"github.com/musterdr/muster/providers/rpc"
)

// asProvider has the test's binary be the provider.
const asProvider = "MUSTER_TEST_AS_PROVIDER"

func TestMain(m *testing.M) {
	if os.Getenv(asProvider) != "" {
		main()
	}
	os.Exit(m.Run())
}

// processes starts providers as processes of their own, and kills the newest.
type processes struct {
	settings json.RawMessage

	mu     sync.Mutex
	newest *process
}

type process struct {
	*rpc.Client
	command *exec.Cmd
	plugin  *plugin.Client
}

func (p *process) Close() error {
	_ = p.Client.Close() // it may be dead
	p.plugin.Kill()
	return nil
}

func (s *processes) start() (*process, error) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), asProvider+"=1")
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: rpc.Handshake(), VersionedPlugins: rpc.Plugins(mem.Name, rpc.Protocols()), Cmd: command, AutoMTLS: true,
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
	started := &process{Client: p, command: command, plugin: client}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = started
	return started, nil
}

func (s *processes) open(ctx context.Context) (providers.Provider, error) {
	p, err := s.start()
	if err != nil {
		return nil, err
	}
	if err := p.Configure(ctx, s.settings); err != nil {
		p.plugin.Kill()
		return nil, err
	}
	return p, nil
}

func (s *processes) kill() {
	s.mu.Lock()
	p := s.newest
	s.mu.Unlock()
	_ = p.command.Process.Kill()
	p.plugin.Kill() // waits for its end
}

func suite(t *testing.T, settings mem.Settings) conformance.Config {
	t.Helper()
	settings.Folder, settings.Regions = t.TempDir(), []string{"elsewhere"}
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	s := &processes{settings: raw}
	return conformance.Config{
		Open:         s.open,
		Unconfigured: func() (providers.Provider, error) { return s.start() },
		Kill:         s.kill,
		Size:         2 << 20,
		CopyTarget:   map[string]string{"region": "elsewhere"},
		Machine:      &providers.MachineRequest{Name: "node-1", Parameters: map[string]string{"image": "debian"}},
		KillAfter:    []time.Duration{0, 5 * time.Millisecond},
	}
}

// TestConformance runs the suite over the real wire against real processes, which it kills.
func TestConformance(t *testing.T) {
	t.Parallel()
	conformancetest.Run(t, suite(t, mem.Settings{}))
}

// TestKilledBeforeTheAnswer kills processes that have done the work and not yet said so.
func TestKilledBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	config := suite(t, mem.Settings{Faults: []mem.Fault{{Call: "*", At: mem.AtEnd, Latency: "30ms"}}})
	config.Only = []string{"killed-"}
	config.KillAfter = []time.Duration{15 * time.Millisecond}
	conformancetest.Run(t, config)
}
