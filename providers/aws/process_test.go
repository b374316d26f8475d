package aws

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/rpc"
)

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
