package host

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/rpc"
)

// launched is a provider's process with the connection to it.
type launched struct {
	*rpc.Client
	plugin  *plugin.Client
	process *process
	tail    *tail
}

// start is what is needed to start a program.
type start struct {
	name      string
	variables []string
	log       logger
	protocols rpc.Range
}

// launch starts a provider's program. When ctx ends before it is up, it is killed.
func (h *Host) launch(ctx context.Context, s start) (*launched, error) {
	program, err := h.folder.open(s.name)
	if err != nil {
		return nil, err
	}
	if err := h.checkPin(s.name, program.digest); err != nil {
		program.file.Close()
		return nil, err
	}
	child, err := newProcess(program, s.variables, h.config.Memory)
	if err != nil {
		program.file.Close()
		return nil, fault.New("start provider", fault.Transient, s.name, err)
	}
	l := &launched{process: child, tail: &tail{}}
	l.plugin = plugin.NewClient(h.pluginConfig(s, l))
	stop := context.AfterFunc(ctx, func() { _ = child.Kill(context.Background()) })
	defer stop()
	if l.Client, err = connect(l.plugin); err != nil {
		l.kill()
		return nil, h.notUp(ctx, s, l, err)
	}
	return l, nil
}

func (h *Host) pluginConfig(s start, l *launched) *plugin.ClientConfig {
	output := &lines{log: s.log}
	return &plugin.ClientConfig{
		HandshakeConfig: rpc.Handshake(), VersionedPlugins: rpc.Plugins(s.name, s.protocols),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, AutoMTLS: true, SkipHostEnv: true,
		StartTimeout: h.config.Patience, GRPCDialOptions: rpc.DialOptions(),
		Logger: s.log, PluginLogBufferSize: maxLine, Stderr: l.tail, SyncStdout: output, SyncStderr: output,
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			l.process.cmd.Env = append(l.process.cmd.Env, cmd.Env...)
			return l.process, nil
		},
	}
}

func connect(client *plugin.Client) (*rpc.Client, error) {
	protocol, err := client.Client()
	if err != nil {
		return nil, err
	}
	return rpc.Dispense(protocol)
}

// notUp says why a program did not start.
func (h *Host) notUp(ctx context.Context, s start, l *launched, err error) error {
	const op = "start provider"
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return known
	case ctx.Err() != nil:
		return fault.New(op, fault.Transient, s.name, ctx.Err())
	case strings.Contains(err.Error(), "incompatible API version"):
		return h.incompatible(ctx, s)
	case strings.Contains(err.Error(), "timeout while waiting"):
		return fault.Newf(op, fault.Transient, s.name, "it said nothing for %s", h.config.Patience)
	}
	return fault.Newf(op, fault.Internal, s.name, "it ended before it was up, or is no provider (%s)%s", l.process.ending, lastWords(l.tail))
}

func lastWords(t *tail) string {
	if words := t.words(); words != "" {
		return ": " + words
	}
	return ""
}

// newestEver is a number that no version of the protocol will reach.
const newestEver = 1000

// incompatible asks a program for its range of protocols: Info is the same in all of them.
func (h *Host) incompatible(ctx context.Context, s start) error {
	const op = "start provider"
	ours := s.protocols
	if ours.Newest == newestEver {
		return fault.Newf(op, fault.Unsupported, s.name, "it speaks no version of the protocol")
	}
	s.protocols = rpc.Range{Oldest: rpc.Oldest, Newest: newestEver}
	l, err := h.launch(ctx, s)
	if err != nil {
		return err
	}
	defer l.stop()
	info, err := l.Info(ctx)
	if err != nil {
		return err
	}
	theirs := rpc.RangeOf(info.Protocols)
	older := "muster"
	if theirs.Newest < ours.Oldest {
		older = "the provider"
	}
	return fault.Newf(op, fault.Unsupported, s.name, "provider %s speaks protocol %s, this muster %s: upgrade %s", info.Version, theirs, ours, older)
}

// grace is how long a process may take to end by itself.
const grace = 5 * time.Second

// stop ends the process in order, and by force when that takes too long.
func (l *launched) stop() {
	timer := time.AfterFunc(grace, func() { _ = l.process.Kill(context.Background()) })
	defer timer.Stop()
	_ = l.Close() // a backend that is let go of badly changes nothing: the process ends
	l.plugin.Kill()
	<-l.process.exited
}

// kill ends the process at once.
func (l *launched) kill() {
	l.process.abandon()
	_ = l.process.Kill(context.Background())
	l.plugin.Kill()
	<-l.process.exited
}

// ended describes the end of a process that is gone.
func (l *launched) ended() error {
	return fmt.Errorf("%w (%s)%s", rpc.ErrEnded, l.process.ending, lastWords(l.tail))
}
