package aws

import (
	"context"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/rpc"
)

// serveForTest makes the test's program a provider's program: when Muster's handshake is in the
// environment. It is the command's main with the tests' Config.
func serveForTest() (bool, int) {
	handshake := rpc.Handshake()
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		return false, 0
	}
	return true, rpc.Serve(New(suiteSettings()))
}

// remote serves the provider over real gRPC in this process.
func remote(t *testing.T) providers.Provider {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := rpc.NewServer(nil)
	rpc.Register(server, New(suiteSettings()), rpc.Protocols())
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	options := append(rpc.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	conn := must(grpc.NewClient("passthrough:///provider", options...))
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return rpc.NewClient(conn, name)
}

// programs are provider processes of one test.
type programs struct {
	t    *testing.T
	mu   sync.Mutex
	last *exec.Cmd
}

// start starts a process of its own and talks to it as the host does.
func (p *programs) start() (providers.Provider, error) {
	cmd := exec.Command(must(os.Executable()))
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: rpc.Handshake(), VersionedPlugins: rpc.Plugins(name, rpc.Protocols()), Cmd: cmd, AutoMTLS: true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, GRPCDialOptions: rpc.DialOptions(),
		Logger: hclog.NewNullLogger(),
	})
	p.t.Cleanup(client.Kill)
	protocol, err := client.Client()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.last = cmd
	p.mu.Unlock()
	return rpc.Dispense(protocol)
}

// kill ends the process that was started last, by its ID.
func (p *programs) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.last.Process.Kill() // it may have ended
	_, _ = p.last.Process.Wait()
}
