package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/musterdr/muster/providers/fault"
)

// PodCommand is a program that runs in a container, with its streams.
type PodCommand struct {
	Namespace, Pod, Container string
	Argv                      []string
	Stdin                     io.Reader // nil is empty
	Stdout, Stderr            io.Writer // nil throws away
}

// ExitError is the end of a program in a container that failed.
type ExitError struct {
	Pod  string // namespace/name
	Code int
}

// Error names the pod and the code.
func (e *ExitError) Error() string { return fmt.Sprintf("run in pod %s: exit code %d", e.Pod, e.Code) }

// Exec runs a program in a container through the API server, over a websocket or, where the server or
// something before it knows none, over SPDY. A program that failed is an ExitError.
//
// When ctx ends, Exec returns at once and the program goes on: nobody tells it. The same holds for a
// connection that breaks, which a server may show as a good end: callers that must know let the program
// say itself that it ended. Streams are not written to after Exec has returned.
func (c *Client) Exec(ctx context.Context, command PodCommand) error {
	if c.tunnelled {
		return fault.Newf("run in pod", fault.Unsupported, command.name(), "the cluster is reached through a tunnel, which programs in pods don't go through")
	}
	executor, err := c.executor(command)
	if err != nil {
		return fault.New("run in pod", fault.Internal, command.name(), err)
	}
	stdout, stderr := &gate{to: command.Stdout}, &gate{to: command.Stderr}
	defer stdout.close()
	defer stderr.close()
	options := remotecommand.StreamOptions{Stdin: command.Stdin, Stdout: stdout, Stderr: stderr}
	ctx = klog.NewContext(ctx, klog.Logger{}) // it would write to standard error what is returned anyway
	return command.fault(ctx, executor.StreamWithContext(ctx, options))
}

func (p PodCommand) name() string { return p.Namespace + "/" + p.Pod }

// executor tries the websocket first. Falling back is safe: it happens before the program starts.
func (c *Client) executor(command PodCommand) (remotecommand.Executor, error) {
	url := c.typed.CoreV1().RESTClient().Post().Namespace(command.Namespace).Resource("pods").Name(command.Pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: command.Container, Command: command.Argv, Stdin: command.Stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	config := rest.CopyConfig(c.config)
	websocket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, url.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, url)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}

// fault tells apart a program that failed, one that could not start, and a call that broke.
func (p PodCommand) fault(ctx context.Context, err error) error {
	var exit exec.CodeExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fault.New("run in pod", fault.Transient, p.name(), context.Cause(ctx))
	case errors.As(err, &exit):
		return &ExitError{Pod: p.name(), Code: exit.Code}
	case statusCode(err) != 0, identityRefused(err):
		return classify("run in pod", p.name(), err)
	case strings.Contains(err.Error(), "executable file not found"), strings.Contains(err.Error(), "no such file or directory"):
		return fault.Newf("run in pod", fault.NotFound, p.name(), "container %q has no %s", p.Container, p.Argv[0])
	}
	return fault.New("run in pod", fault.Transient, p.name(), err)
}

// gate hands on what is written until it is closed.
type gate struct {
	mu     sync.Mutex
	to     io.Writer
	closed bool
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.to == nil {
		return len(p), nil
	}
	return g.to.Write(p)
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
