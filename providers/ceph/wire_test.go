//go:build cgo && ceph

package ceph_test

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
	"github.com/musterdr/muster/providers/rpc"
)

// asProvider has the test's binary be the provider.
const asProvider = "MUSTER_TEST_AS_PROVIDER"

// processes starts providers as processes of their own, and kills the newest.
type processes struct {
	settings json.RawMessage

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
		HandshakeConfig: rpc.Handshake(), VersionedPlugins: rpc.Plugins("ceph", rpc.Protocols()), Cmd: command, AutoMTLS: true,
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
	if err := p.Configure(ctx, s.settings); err != nil {
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

// TestOverTheWire runs what a wire, or a death, can change, against real processes that it kills. The death of one
// that holds a lease costs the time after which another takes it over; filesystems are left out, since CephFS waits
// a minute for a dead client.
func TestOverTheWire(t *testing.T) {
	s := &processes{settings: settings(t, func(s map[string]any) { delete(s, "filesystems") })}
	conformancetest.Run(t, conformance.Config{
		Open:         s.open,
		Unconfigured: func() (providers.Provider, error) { return s.start() },
		Kill:         s.kill,
		Contents:     []providers.Content{providers.ContentBlocks},
		KillAfter:    []time.Duration{20 * time.Millisecond},
		Only: []string{
			"info", "configure", "health", "discover", "snapshot-several", "extents", "read", "write", "overwrite",
			"cancelled-write", "cancelled-read", "killed-delete-volume", "killed-write", "killed-overwrite", "killed-snapshot", "killed-read",
		},
	})
}
