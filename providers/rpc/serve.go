package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/musterdr/muster/providers"
)

// The name of the one plugin in a provider's program.
const pluginName = "provider"

// Flow control: a stream holds at most one message of the largest size in each direction beside the one
// that is being read, a connection four.
const (
	maxMessage       = providers.MaxBlock + 64<<10
	streamWindow     = maxMessage
	connectionWindow = 4 * maxMessage
)

// Handshake is what tells a provider's program that Muster started it.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{MagicCookieKey: "MUSTER_PROVIDER", MagicCookieValue: "4b6f0a52-d7a4-4d0c-9d51-muster"}
}

// Serve runs a provider's program until Muster ends it, and returns its exit code:
//
//	func main() { os.Exit(rpc.Serve(provider)) }
//
// What the program writes to standard output or standard error goes to Muster's log; Log makes lines that
// keep their level there.
func Serve(provider providers.Provider) int { return ServeProtocols(provider, Protocols()) }

// ServeProtocols is Serve for a provider that keeps to some versions of the contract.
func ServeProtocols(provider providers.Provider, protocols Range) int {
	handshake := Handshake()
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		explain(provider)
		return 2
	}
	once := &closeOnce{Provider: provider}
	versions := map[int]plugin.PluginSet{}
	for _, v := range protocols.Versions() {
		versions[v] = plugin.PluginSet{pluginName: &Plugin{provider: once, protocols: protocols}}
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake, VersionedPlugins: versions, GRPCServer: NewServer,
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
	})
	if err := once.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// explain tells a person who runs the program by hand what it is.
func explain(provider providers.Provider) {
	name := "NAME"
	if info, err := provider.Info(context.Background()); err == nil {
		name = info.Name
	}
	fmt.Fprintf(os.Stderr, "This is the %s provider of Muster, which starts it by itself. To see what it can do and how to set it up:\n\n"+
		"  muster provider info %s\n\nTo try it against a backend:\n\n  muster provider validate %s --settings FILE\n", name, name, name)
}

// closeOnce lets Muster's Close and the program's own be one.
type closeOnce struct {
	providers.Provider
	once sync.Once
	err  error
}

func (c *closeOnce) Close() error {
	c.once.Do(func() { c.err = c.Provider.Close() })
	return c.err
}

// Plugin is a provider as go-plugin sees it.
type Plugin struct {
	plugin.NetRPCUnsupportedPlugin
	provider  providers.Provider
	protocols Range
	name      string
}

// Plugins is what Muster's side gives to go-plugin for a provider of a name.
func Plugins(name string, protocols Range) map[int]plugin.PluginSet {
	versions := map[int]plugin.PluginSet{}
	for _, v := range protocols.Versions() {
		versions[v] = plugin.PluginSet{pluginName: &Plugin{name: name}}
	}
	return versions
}

// Dispense gets the provider of a started plugin.
func Dispense(protocol plugin.ClientProtocol) (*Client, error) {
	raw, err := protocol.Dispense(pluginName)
	if err != nil {
		return nil, err
	}
	return raw.(*Client), nil
}

// GRPCServer implements plugin.GRPCPlugin.
func (p *Plugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	Register(s, p.provider, p.protocols)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin.
func (p *Plugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewClient(conn, p.name), nil
}

// NewServer is a gRPC server with the protocol's limits.
func NewServer(options []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(options,
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connectionWindow),
		grpc.UnaryInterceptor(caughtUnary), grpc.StreamInterceptor(caughtStream),
	)...)
}

// DialOptions are the client's side of the protocol's limits.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connectionWindow),
		grpc.WithDisableRetry(),
	}
}

// Log writes lines to standard error that keep their level and attributes in Muster's log.
func Log() *slog.Logger {
	return slog.New(slog.NewJSONHandler(stderr{}, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: inHclog}))
}

// stderr is the process's own standard error: os.Stderr is another one while go-plugin serves, whose lines
// lose their form.
type stderr struct{}

func (stderr) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n, err := syscall.Write(syscall.Stderr, p[written:])
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// inHclog gives slog's own attributes the names that go-plugin reads.
func inHclog(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("@timestamp", a.Value.Time().Format("2006-01-02T15:04:05.000000Z07:00"))
	case slog.LevelKey:
		return slog.String("@level", strings.ToLower(a.Value.String()))
	case slog.MessageKey:
		a.Key = "@message"
	}
	return a
}
