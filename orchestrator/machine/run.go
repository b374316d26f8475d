package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/musterdr/muster/providers/fault"
)

// Command is a shell script with its streams.
type Command struct {
	Script string
	// Stdin may stay open when the script has ended: Run does not wait for a read that is under way then,
	// and what that read gives is lost. When Stdin fails, the script is ended before it can take that for
	// the end of its input, and Run returns the failure.
	Stdin  io.Reader
	Stdout io.Writer
	// Stderr takes standard error; nil throws it away but for its end, which the error then holds.
	// Where it is set, a script that failed always gives an ExitError: what its output means is the
	// caller's to say.
	Stderr io.Writer
}

// Run runs a script with sh as root. An error holds the exit code and the end of what it wrote to
// standard error. When ctx ends, or Stdout or Stderr takes no more, the script's processes are ended;
// neither is written to after Run has returned.
func (h *Host) Run(ctx context.Context, command Command) error {
	session, err := h.client.NewSession()
	if err != nil {
		return fault.New("run on machine", fault.Transient, h.machine.Name, err)
	}
	defer session.Close()
	ctx, give := context.WithCancelCause(ctx)
	defer give(nil)
	out, diagnostics := &output{to: command.Stdout, give: give}, &output{to: command.Stderr, give: give}
	defer out.close()
	defer diagnostics.close()
	kept := &bounded{limit: stderrBytes}
	leader := &Leader{To: io.MultiWriter(kept, diagnostics)}
	session.Stdout, session.Stderr = out, leader
	feed, err := feeder(session, command.Stdin)
	if err != nil {
		return fault.New("run on machine", fault.Internal, h.machine.Name, err)
	}
	// sshd makes the shell the leader of a process group; its number comes first.
	if err := session.Start(Announce + "exec " + h.shell(command.Script)); err != nil {
		return fault.New("run on machine", fault.Transient, h.machine.Name, err)
	}
	go feed(give)
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err := <-ended:
		if ctx.Err() != nil {
			return endedBy(h.machine.Name, context.Cause(ctx))
		}
		return h.exitFault(err, kept.String(), command.Stderr != nil)
	case <-ctx.Done():
		h.end(leader, ended)
		return endedBy(h.machine.Name, context.Cause(ctx))
	}
}

// feeder returns what copies a script's input. The session's own copy would show a failure as the end of
// the input, and call it a failure when a script has ended without reading all.
func feeder(session *ssh.Session, stdin io.Reader) (func(give context.CancelCauseFunc), error) {
	if stdin == nil {
		return func(context.CancelCauseFunc) {}, nil // the session shows an empty one
	}
	to, err := session.StdinPipe()
	return func(give context.CancelCauseFunc) {
		if _, err := io.Copy(to, stdin); err != nil && !errors.Is(err, io.EOF) { // EOF: nobody reads any more
			give(err)
			return
		}
		_ = to.Close() // it may be gone
	}, err
}

func (h *Host) shell(script string) string {
	if h.access.Sudo {
		return "sudo -n sh -c " + Quote(script)
	}
	return "sh -c " + Quote(script)
}

// endWithin bounds the wait for a script that is told to end.
const endWithin = 3 * time.Second

// end ends a process group by a session of its own: sshd passes no signals on for root, and closing
// the session leaves running what does not write. A script that has yet to begin is waited for.
func (h *Host) end(leader *Leader, ended <-chan error) {
	if gone := endsWithin(ended, leader.Begun()); gone {
		return
	}
	for _, signal := range []string{"TERM", "KILL"} {
		group := leader.Group()
		if session, err := h.client.NewSession(); err == nil && group != "" {
			_ = session.Run(h.shell("kill -s " + signal + " -- -" + group)) // it may have ended
			_ = session.Close()
		}
		if gone := endsWithin(ended, nil); gone {
			return
		}
	}
}

// endsWithin waits endWithin at most, or for the other channel.
func endsWithin(ended <-chan error, other <-chan struct{}) bool {
	timer := time.NewTimer(endWithin)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-other:
	case <-timer.C:
	}
	return false
}

// output hands on what a script writes, and ends the script when nobody takes it any more: it would
// wait for ever. What comes after that is thrown away, since an end that nobody reads does not come.
type output struct {
	mu     sync.Mutex
	to     io.Writer // nil throws away
	closed bool
	give   context.CancelCauseFunc
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.to == nil {
		return len(p), nil
	}
	if _, err := o.to.Write(p); err != nil {
		o.closed = true
		o.give(err)
	}
	return len(p), nil
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// Announce stands before a script that tells a Leader its process group.
const Announce = "echo $$ >&2; "

// Leader is a script's standard error: the number of its process group on the first line, which
// Announce wrote and Leader keeps, then what the script says, which it hands on.
type Leader struct {
	To io.Writer

	mu    sync.Mutex
	line  []byte
	known bool
	begun chan struct{} // for who asks
}

// Write implements io.Writer.
func (l *Leader) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	if !l.known {
		line, rest, found := bytes.Cut(p, []byte("\n"))
		l.line, l.known, p = append(l.line, line...), found, rest
		if found && l.begun != nil {
			close(l.begun)
		}
	}
	_, err := l.To.Write(p)
	return n, err
}

// Begun is closed when the script has begun.
func (l *Leader) Begun() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun == nil {
		l.begun = make(chan struct{})
		if l.known {
			close(l.begun)
		}
	}
	return l.begun
}

// Group is empty before the script has begun.
func (l *Leader) Group() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := strconv.Atoi(string(l.line)); err != nil || !l.known {
		return ""
	}
	return string(l.line)
}

func endedBy(machine string, cause error) error {
	var known *fault.Error
	if errors.As(cause, &known) {
		return cause
	}
	return fault.New("run on machine", fault.Transient, machine, cause)
}

// exitFault reads meaning into what failed scripts say, unless they are somebody else's.
func (h *Host) exitFault(err error, diagnostics string, foreign bool) error {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fault.New("run on machine", fault.Transient, h.machine.Name, err)
	case !foreign && strings.Contains(diagnostics, "No space left on device"):
		return fault.Newf("run on machine", fault.NoSpace, h.machine.Name, "%s", diagnostics)
	case h.access.Sudo && strings.Contains(diagnostics, "sudo: a password is required"):
		return fault.Newf("run on machine", fault.Denied, h.machine.Name, "user %s needs sudo without a password", h.access.User)
	default:
		return &ExitError{Machine: h.machine.Name, Code: exit.ExitStatus(), Diagnostics: diagnostics}
	}
}

// ExitError is the end of a script that failed.
type ExitError struct {
	Machine     string
	Code        int
	Diagnostics string // the end of its standard error
}

// Error shows the last lines: what a program says at its end is why it ended.
func (e *ExitError) Error() string {
	lines := strings.Split(e.Diagnostics, "\n")
	lines = lines[max(0, len(lines)-shownLines):]
	return fmt.Sprintf("run on machine %s: exit code %d: %s", e.Machine, e.Code, strings.Join(lines, "; "))
}

// bounded keeps the last bytes of a stream.
type bounded struct {
	limit int
	kept  []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p...)
	if over := len(b.kept) - b.limit; over > 0 {
		b.kept = b.kept[over:]
	}
	return len(p), nil
}

func (b *bounded) String() string { return strings.TrimSpace(string(b.kept)) }
