package cluster

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/musterdr/muster/providers/fault"
)

// connections is how many HTTP/2 connections a client spreads its requests over: one connection is
// read by one goroutine and carries at most 250 requests.
const connections = 4

// Access says how to reach a cluster. Exactly one of KubeconfigFile and Kubeconfig is set.
type Access struct {
	KubeconfigFile string
	Kubeconfig     []byte
	// Context names the kubeconfig's context; empty means its current one.
	Context string
	// Server replaces the kubeconfig's https://host:port. The server must still prove the identity
	// that the kubeconfig's CA vouches for, under the new address or under ServerName.
	Server string
	// ServerName is what the server's certificate must be for when it is not Server's host.
	ServerName string
	// DialContext opens connections; nil means directly.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client talks to one cluster. It does not throttle itself: the server's priority and fairness does,
// and the client waits as long as a 429 tells it to. It is safe for concurrent use.
type Client struct {
	server string // https://host:port, without a trailing slash
	http   *http.Client
	typed  kubernetes.Interface
	pool   *pool
	config *rest.Config // for connections that become streams
	runner *Client      // whose credentials a tenant's client comes from; else nil
	pages  *turnstile   // bounds those that are read at once
	writes *turnstile   // bounds those of a replay that are under way at once
	// tunnelled says that connections are opened by the caller's own function.
	tunnelled bool
}

// Connect reads a kubeconfig and returns a client. It makes no request.
//
// Errors: NotFound for a missing file or context, Invalid for a kubeconfig that cannot be used.
func Connect(access Access) (*Client, error) {
	config, err := restConfig(access)
	if err != nil {
		return nil, err
	}
	return newClient(config, access.DialContext != nil)
}

func newClient(config *rest.Config, tunnelled bool) (*Client, error) {
	transports, err := newPool(config)
	if err != nil {
		return nil, fault.New("connect to cluster", fault.Invalid, config.Host, err)
	}
	httpClient := &http.Client{Transport: transports}
	typed, err := kubernetes.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fault.New("connect to cluster", fault.Invalid, config.Host, err)
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fault.New("connect to cluster", fault.Invalid, config.Host, err)
	}
	return &Client{
		server: base.Scheme + "://" + base.Host, http: httpClient, typed: typed, pool: transports,
		config: config, tunnelled: tunnelled, pages: newTurnstile(max(readers, runtime.GOMAXPROCS(0))), writes: newTurnstile(replayParallel),
	}, nil
}

// Kubernetes returns a typed client over the same connections.
func (c *Client) Kubernetes() kubernetes.Interface { return c.typed }

// Server returns the API server's address: https://host:port.
func (c *Client) Server() string { return c.server }

// Ready asks the API server whether it is ready. Transient means: not yet.
func (c *Client) Ready(ctx context.Context) error {
	response, err := c.send(ctx, request{method: http.MethodGet, path: "/readyz"})
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// Close drops the connections that are idle.
func (c *Client) Close() {
	c.pool.CloseIdleConnections()
	if c.runner != nil {
		c.runner.Close()
	}
}

func restConfig(access Access) (*rest.Config, error) {
	raw, err := readKubeconfig(access)
	if err != nil {
		return nil, err
	}
	if _, found := raw.Contexts[access.Context]; access.Context != "" && !found {
		return nil, fault.Newf("connect to cluster", fault.NotFound, access.KubeconfigFile,
			"the kubeconfig has no context %q", access.Context)
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: access.Context}
	config, err := clientcmd.NewDefaultClientConfig(*raw, overrides).ClientConfig()
	if err != nil {
		return nil, fault.New("connect to cluster", fault.Invalid, access.KubeconfigFile, err)
	}
	config.QPS = -1
	config.DisableCompression = true // packing costs the API server more than a cluster's network gains
	config.UserAgent = "muster"
	config.WarningHandler = rest.NoWarnings{}
	if access.Server != "" {
		config.Host = access.Server
	}
	if access.ServerName != "" {
		config.ServerName = access.ServerName
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	config.Dial = dialer.DialContext
	if access.DialContext != nil {
		config.Dial = access.DialContext
	}
	return config, nil
}

func readKubeconfig(access Access) (*clientcmdapi.Config, error) {
	if access.KubeconfigFile == "" {
		raw, err := clientcmd.Load(access.Kubeconfig)
		if err != nil {
			// The parser's message can quote the line, and the line can hold a key.
			return nil, fault.Newf("connect to cluster", fault.Invalid, "kubeconfig", "it is not a kubeconfig")
		}
		return raw, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: access.KubeconfigFile}
	raw, err := rules.Load()
	if err != nil {
		return nil, fault.New("connect to cluster", fault.NotFound, access.KubeconfigFile, err)
	}
	return raw, nil
}

// pool spreads requests over several transports, each with a connection of its own.
type pool struct {
	transports []http.RoundTripper
	next       atomic.Uint32
}

func newPool(config *rest.Config) (*pool, error) {
	p := &pool{}
	for range connections {
		// Each call makes a transport of its own, because config.Dial is set: client-go shares
		// transports only among configurations with the same dialer holder.
		transport, err := rest.TransportFor(config)
		if err != nil {
			return nil, err
		}
		p.transports = append(p.transports, transport)
	}
	return p, nil
}

// RoundTrip implements http.RoundTripper.
func (p *pool) RoundTrip(request *http.Request) (*http.Response, error) {
	return p.transports[int(p.next.Add(1))%len(p.transports)].RoundTrip(request)
}

// CloseIdleConnections ends connections that carry no request.
func (p *pool) CloseIdleConnections() {
	for _, transport := range p.transports {
		closeIdle(transport)
	}
}

// closeIdle finds the transport below client-go's wrappers.
func closeIdle(transport http.RoundTripper) {
	for {
		if closer, ok := transport.(interface{ CloseIdleConnections() }); ok {
			closer.CloseIdleConnections()
			return
		}
		wrapper, ok := transport.(interface{ WrappedRoundTripper() http.RoundTripper })
		if !ok {
			return
		}
		transport = wrapper.WrappedRoundTripper()
	}
}
