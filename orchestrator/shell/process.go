package shell

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers/fault"
)

// Grace is the time that a script on the runner has between the request to end and the end.
const Grace = 5 * time.Second

// processLinger is how long output is awaited of what a program has left running in its group.
const processLinger = time.Second

// process is a program on the runner's own machine. It gets a process group of its own, and no file
// descriptor but its input and output.
type process struct {
	path   string // of the program; a relative one counts from dir
	argv   []string
	dir    string
	env    []string
	stdin  io.Reader // nil is empty
	stdout io.Writer
	stderr io.Writer
}

// run returns the exit code, 128 and the number for a signal, when the program and everything that it
// started in its group has ended. When ctx ends, the group is asked to end, and then made to.
func (p process) run(ctx context.Context) (int, error) {
	runtime.LockOSThread() // Pdeathsig comes when the thread that started the program ends
	defer runtime.UnlockOSThread()
	out, err := newDrain(p.stdout, p.stderr)
	if err != nil {
		return 0, fault.New("run program", fault.Internal, p.path, err)
	}
	in, err := newFeed(p.stdin)
	if err != nil {
		out.started()
		out.stop()
		return 0, fault.New("run program", fault.Internal, p.path, err)
	}
	defer in.stop()
	command := &exec.Cmd{
		Path: p.path, Args: p.argv, Dir: p.dir, Env: p.env, Stdout: out.write[0], Stderr: out.write[1],
		// A program does not outlive its runner: whoever resumes the run starts it again.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if in.read != nil {
		command.Stdin = in.read
	}
	keepFiles()
	err = command.Start()
	out.started()
	if err != nil {
		out.stop()
		return 0, startFault(p.path, err)
	}
	in.started()
	exited := exitOf(command.Process.Pid)
	ended := p.await(ctx, command.Process.Pid, exited, out)
	// The leader is not waited for yet, so that its number can't belong to another group.
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	_ = command.Wait() // the state tells more than the error
	out.stop()
	if ended != nil {
		return 0, fault.New("run program", fault.Transient, p.path, ended)
	}
	return exitCode(command.ProcessState), nil
}

// keepFiles keeps the runner's open files from programs that it starts. Its own are kept already; this
// is about those that its own parent has left to it.
func keepFiles() {
	const first = 3 // after standard input, output and error
	if unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, err := os.ReadDir("/proc/self/fd") // Linux before 5.11
	if err != nil {
		return
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}

// await returns when the program has ended by itself, or the cause when it was asked to.
func (p process) await(ctx context.Context, pid int, exited <-chan struct{}, out *drain) error {
	select {
	case <-exited:
		within(processLinger, ctx.Done(), out.done)
		return nil
	case <-ctx.Done():
	}
	_ = syscall.Kill(-pid, syscall.SIGTERM) // it may have ended
	grace := time.NewTimer(Grace)
	defer grace.Stop()
	for _, end := range []<-chan struct{}{exited, out.done} {
		select {
		case <-end:
		case <-grace.C:
			return context.Cause(ctx)
		}
	}
	return context.Cause(ctx)
}

// within waits for the first of two channels, or the limit.
func within(limit time.Duration, one, other <-chan struct{}) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-one:
	case <-other:
	case <-timer.C:
	}
}

// exitOf is closed when the process has ended; it stays to be waited for.
func exitOf(pid int) <-chan struct{} {
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		for {
			err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return exited
}

func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

func startFault(path string, err error) error {
	var cause *os.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	kind := fault.Transient // no memory, too many processes
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		kind = fault.NotFound
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		kind = fault.Denied
	case errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.E2BIG):
		kind = fault.Invalid
	}
	return fault.New("start program", kind, path, err)
}

// feed copies a program's input into a pipe; without input there is no pipe.
type feed struct {
	from        io.Reader
	read, write *os.File
}

func newFeed(from io.Reader) (*feed, error) {
	f := &feed{from: from}
	if from == nil {
		return f, nil
	}
	var err error
	f.read, f.write, err = os.Pipe()
	return f, err
}

// started gives up the side that the program has now, and begins.
func (f *feed) started() {
	if f.read == nil {
		return
	}
	_ = f.read.Close()
	go func() {
		_, _ = io.Copy(f.write, f.from) // what fails here is the program that reads no more; the rest is input's
		_ = f.write.Close()
	}()
}

// stop ends a write, though not a read that somebody else has yet to answer.
func (f *feed) stop() {
	if f.read != nil {
		_ = f.read.Close()
		_ = f.write.Close()
	}
}

// drain copies a program's output from pipes, no faster than it is taken.
type drain struct {
	read, write [2]*os.File
	copying     sync.WaitGroup
	stopping    atomic.Bool
	done        chan struct{} // closed when nobody can write any more
}

func newDrain(to ...io.Writer) (*drain, error) {
	d := &drain{done: make(chan struct{})}
	for i := range to {
		var err error
		if d.read[i], d.write[i], err = os.Pipe(); err != nil {
			for _, f := range append(d.read[:i], d.write[:i]...) {
				_ = f.Close()
			}
			return nil, err
		}
	}
	for i, w := range to {
		d.copying.Go(func() { d.copy(w, d.read[i]) })
	}
	go func() { d.copying.Wait(); close(d.done) }()
	return d, nil
}

// copy ends with the pipe or, after stop, with what the pipe holds then.
func (d *drain) copy(to io.Writer, from *os.File) {
	buffer := make([]byte, copyBytes)
	for !d.stopping.Load() {
		n, err := from.Read(buffer)
		if n > 0 {
			_, _ = to.Write(buffer[:n]) // an output that fails says so itself, and throws away what follows
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
	for left := pending(from); left > 0; {
		_ = from.SetReadDeadline(time.Time{}) // stop may set one again in between
		n, err := from.Read(buffer[:min(left, copyBytes)])
		_, _ = to.Write(buffer[:n])
		left -= n
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

const copyBytes = 64 << 10 // as much as a pipe holds

// pending is how many bytes a pipe holds.
func pending(pipe *os.File) (n int) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) // a pipe knows it
	})
	return n
}

// started gives up the side that the program has now.
func (d *drain) started() {
	for _, f := range d.write {
		_ = f.Close()
	}
}

// stop returns when all that the program wrote is copied, although somebody outside the group may
// still hold the pipes. It waits for a slow writer as long as that takes.
func (d *drain) stop() {
	within(processLinger, d.done, nil)
	d.stopping.Store(true)
	for _, f := range d.read {
		_ = f.SetReadDeadline(time.Unix(1, 0)) // ends a read that waits; copy looks for stopping then
	}
	<-d.done
	for _, f := range d.read {
		_ = f.Close()
	}
}

// lookPath finds a program in a PATH; a name with a slash is taken as it is.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fault.Newf("find program", fault.NotFound, name, "no folder of PATH holds it: %s", path)
}
