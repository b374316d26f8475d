package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

// process is a provider's process, as go-plugin wants one.
type process struct {
	program *program
	cmd     *exec.Cmd
	memory  int64
	out     pipe
	err     pipe
	once    sync.Once // Start or abandon
	exited  chan struct{}

	mu     sync.Mutex
	pid    int // 0 before the start, and when it was reaped
	ending string
}

var _ runner.Runner = (*process)(nil)

type pipe struct{ read, write *os.File }

// newProcess prepares a process with an environment. It takes over the program's file.
func newProcess(p *program, variables []string, memory int64) (*process, error) {
	s := &process{program: p, memory: memory, exited: make(chan struct{})}
	var err error
	if s.out.read, s.out.write, err = os.Pipe(); err != nil {
		return nil, err
	}
	if s.err.read, s.err.write, err = os.Pipe(); err != nil {
		return nil, err
	}
	s.cmd = &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", p.file.Fd()), // what was hashed, whatever the path leads to by now
		Args: []string{p.path}, Env: variables, Dir: "/", Stdout: s.out.write, Stderr: s.err.write,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	return s, nil
}

// Start implements runner.Runner.
func (s *process) Start(context.Context) error {
	started := make(chan error)
	s.once.Do(func() { go s.run(started) })
	return <-started
}

// abandon gives up a process that was never started.
func (s *process) abandon() {
	s.once.Do(func() {
		for _, file := range []*os.File{s.out.read, s.out.write, s.err.read, s.err.write, s.program.file} {
			file.Close()
		}
		close(s.exited)
	})
}

// run is the process's life. The kernel sends the parent-death signal when the thread ends that started the
// process, so the thread stays as long as that.
func (s *process) run(started chan<- error) {
	runtime.LockOSThread()
	err := s.cmd.Start()
	s.out.write.Close()
	s.err.write.Close()
	if err == nil {
		s.mu.Lock()
		s.pid = s.cmd.Process.Pid
		s.mu.Unlock()
		err = errors.Join(s.limit(), s.program.unchanged("start provider"))
	} else {
		err = notStarted(s.program, err)
	}
	s.program.file.Close()
	if err != nil {
		_ = s.Kill(context.Background())
	}
	started <- err
	s.reap()
}

func notStarted(p *program, err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.ENOENT):
		return fault.Newf("start provider", fault.Unsupported, p.path, "it is not a program for this machine: %w", err)
	case errors.Is(err, syscall.EACCES):
		return fault.New("start provider", fault.Denied, p.path, err)
	}
	return fault.New("start provider", fault.Transient, p.path, err)
}

// limit bounds the data of the process, and forbids core dumps, which hold secrets.
func (s *process) limit() error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0}
	if s.memory > 0 {
		limits[unix.RLIMIT_DATA] = uint64(s.memory)
	}
	for resource, value := range limits {
		var old unix.Rlimit
		if err := unix.Prlimit(s.cmd.Process.Pid, resource, nil, &old); err != nil {
			return fault.New("limit provider", fault.Internal, s.program.path, err)
		}
		value = min(value, old.Max)
		if err := unix.Prlimit(s.cmd.Process.Pid, resource, &unix.Rlimit{Cur: value, Max: value}, nil); err != nil {
			return fault.New("limit provider", fault.Internal, s.program.path, err)
		}
	}
	return nil
}

// lastLines is how long we wait for lines of a process that is gone: another one may hold its pipes open.
const lastLines = time.Second

// reap waits for the end, and ends what the process left behind in its group. The process ID is ours until
// it is waited for, so nobody else's group is hit.
func (s *process) reap() {
	defer close(s.exited)
	if s.cmd.Process == nil {
		s.out.read.Close()
		s.err.read.Close()
		return
	}
	for unix.Waitid(unix.P_PID, s.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		continue
	}
	_ = s.Kill(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.cmd.Wait() // how it ended is in ProcessState
	s.pid, s.ending = 0, s.cmd.ProcessState.String()
	time.AfterFunc(lastLines, func() { s.out.read.Close(); s.err.read.Close() })
}

// alive reports whether the process has not ended yet.
func (s *process) alive() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Wait implements runner.Runner. How a process ended is told where somebody waits for its answer.
func (s *process) Wait(context.Context) error {
	<-s.exited
	return nil
}

// Kill implements runner.Runner: it kills the whole group.
func (s *process) Kill(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 {
		return nil
	}
	if err := unix.Kill(-s.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Stdout implements runner.Runner.
func (s *process) Stdout() io.ReadCloser { return s.out.read }

// Stderr implements runner.Runner.
func (s *process) Stderr() io.ReadCloser { return s.err.read }

// Name implements runner.Runner.
func (s *process) Name() string { return s.program.path }

// ID implements runner.Runner.
func (s *process) ID() string { return s.program.path }

// Diagnose implements runner.Runner.
func (s *process) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner: both sides see the same sockets.
func (s *process) PluginToHost(network, address string) (hostNetwork, hostAddress string, err error) {
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (s *process) HostToPlugin(network, address string) (pluginNetwork, pluginAddress string, err error) {
	return network, address, nil
}
