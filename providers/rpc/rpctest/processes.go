// Package rpctest has a test's own program be a provider's program, so that the conformance suite runs over the real
// wire against real processes, and kills them.
package rpctest

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/rpc"
)

const asProvider = "MUSTER_TEST_AS_PROVIDER"

// IsProvider tells whether Start has started this program: then TestMain serves the provider, by rpc.Serve.
func IsProvider() bool { return os.Getenv(asProvider) != "" }

// Processes starts providers as processes of their own, and kills the newest.
type Processes struct {
	Name     string
	Settings json.RawMessage // what Open configures them with

	mu     sync.Mutex
	newest *process
}

type process struct {
	*rpc.Client
	command *exec.Cmd
	plugin  *plugin.Client
}

// Close ends the process, too.
func (p *process) Close() error {
	_ = p.Client.Close() // it may be dead
	p.plugin.Kill()
	return nil
}

// Start starts one, and talks to it as the host does. It ends with its Close.
func (s *Processes) Start() (providers.Provider, error) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), asProvider+"=1")
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: rpc.Handshake(), VersionedPlugins: rpc.Plugins(s.Name, rpc.Protocols()), Cmd: command, AutoMTLS: true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, GRPCDialOptions: rpc.DialOptions(), Logger: hclog.NewNullLogger(),
	})
	protocol, err := client.Client()
	if err != nil {
		client.Kill()
		return nil, err
	}
	dispensed, err := rpc.Dispense(protocol)
	if err != nil {
		client.Kill()
		return nil, err
	}
	p := &process{Client: dispensed, command: command, plugin: client}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = p
	return p, nil
}

// Open starts one and configures it.
func (s *Processes) Open(ctx context.Context) (providers.Provider, error) {
	p, err := s.Start()
	if err != nil {
		return nil, err
	}
	if err := p.Configure(ctx, s.Settings); err != nil {
		_ = p.Close() // it ends the process
		return nil, err
	}
	return p, nil
}

// Kill ends the one that was started last, as a crash does.
func (s *Processes) Kill() {
	s.mu.Lock()
	p := s.newest
	s.mu.Unlock()
	_ = p.command.Process.Kill()
	p.plugin.Kill() // waits for its end
}
