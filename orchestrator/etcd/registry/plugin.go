package registry

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	apiserver "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/metrics"
	"k8s.io/kms/pkg/util"
)

// pluginTimeout is the API server's own for a call of a plugin, where the configuration names none.
const pluginTimeout = 3 * time.Second

// plugin opens what a plugin of KMS v2 has encrypted.
type plugin struct {
	connect func() (value.Read, error)
}

// newPlugin connects to nothing yet: a plugin that is not there is looked for once, and not for each value.
func newPlugin(ctx context.Context, config *apiserver.KMSConfiguration) (plugin, error) {
	address, err := util.ParseEndpoint(config.Endpoint)
	if err != nil {
		return plugin{}, invalidKeys("the endpoint of kms %q: %w", config.Name, err)
	}
	timeout := pluginTimeout
	if config.Timeout != nil {
		timeout = config.Timeout.Duration
	}
	return plugin{sync.OnceValues(func() (value.Read, error) {
		opener, err := connect(ctx, address, config, timeout)
		if err != nil {
			return nil, fmt.Errorf("its plugin does not answer at %s: %w", config.Endpoint, err)
		}
		return opener, nil
	})}, nil
}

// TransformFromStorage implements value.Read.
func (p plugin) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	opener, err := p.connect()
	if err != nil {
		return nil, false, err
	}
	return opener.TransformFromStorage(ctx, data, at)
}

func connect(ctx context.Context, address string, config *apiserver.KMSConfiguration, timeout time.Duration) (value.Read, error) {
	// The library's client waits for a socket that is not there, and writes to standard error meanwhile.
	socket, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	if err := socket.Close(); err != nil {
		return nil, err
	}
	service, err := kmsv2.NewGRPCService(ctx, config.Endpoint, config.Name, timeout)
	if err != nil {
		return nil, err
	}
	if _, err := service.Status(ctx); err != nil {
		return nil, err
	}
	metrics.RegisterMetrics() // without it the library's transformer panics
	// The state is for writing.
	return kmsv2.NewEnvelopeTransformer(service, config.Name, func() (kmsv2.State, error) { return kmsv2.State{}, nil }, ""), nil
}
