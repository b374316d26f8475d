package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// Host is a machine behind an SSH connection. It is safe for concurrent use.
type Host struct {
	machine plans.Machine
	access  plans.SSH
	client  *ssh.Client
}

const (
	dialLimit     = 15 * time.Second
	keepAlive     = 10 * time.Second
	missedBeats   = 3
	stderrBytes   = 4 << 10
	shownLines    = 3
	defaultPort   = 22
	defaultUser   = "root"
	fastestCipher = "aes128-gcm@openssh.com"
)

// merged is the machine's own access, with its document's where it says nothing.
func merged(own, shared plans.SSH) plans.SSH {
	out := plans.SSH{
		User: first(own.User, shared.User, defaultUser), KeyFile: first(own.KeyFile, shared.KeyFile),
		KnownHostsFile: first(own.KnownHostsFile, shared.KnownHostsFile), Sudo: own.Sudo || shared.Sudo,
		Port: own.Port,
	}
	if out.Port == 0 {
		out.Port = shared.Port
	}
	if out.Port == 0 {
		out.Port = defaultPort
	}
	return out
}

func first(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}

// Dial logs in. The host key must be the one that known_hosts names: fault.Denied when it is another
// one or none is known; fault.Transient when the machine can't be reached.
func Dial(ctx context.Context, m plans.Machine, shared plans.SSH) (*Host, error) {
	h := &Host{machine: m, access: merged(m.SSH, shared)}
	config, err := h.config()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(m.Address, strconv.Itoa(h.access.Port))
	connection, err := (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fault.New("reach machine", fault.Transient, m.Name, err)
	}
	if err := connection.SetDeadline(time.Now().Add(dialLimit)); err != nil {
		return nil, errors.Join(fault.New("reach machine", fault.Transient, m.Name, err), connection.Close())
	}
	c, channels, requests, err := ssh.NewClientConn(connection, address, config)
	if err != nil {
		return nil, errors.Join(h.loginFault(address, err), connection.Close())
	}
	if err := connection.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fault.New("reach machine", fault.Transient, m.Name, err), connection.Close())
	}
	h.client = ssh.NewClient(c, channels, requests)
	go h.beat()
	return h, nil
}

func (h *Host) config() (*ssh.ClientConfig, error) {
	raw, err := os.ReadFile(h.access.KeyFile)
	if err != nil {
		return nil, fault.Newf("read SSH key", fault.NotFound, h.access.KeyFile, "%w: name it in ssh.keyFile", err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return nil, fault.Newf("read SSH key", fault.Invalid, h.access.KeyFile, "want a private key without a passphrase")
	}
	check, err := knownhosts.New(h.access.KnownHostsFile)
	if err != nil {
		return nil, fault.Newf("read known hosts", fault.NotFound, h.access.KnownHostsFile, "%w: name the file in ssh.knownHostsFile", err)
	}
	config := &ssh.ClientConfig{
		User: h.access.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: check,
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
	}
	config.Ciphers = []string{fastestCipher, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES256CTR}
	return config, nil
}

// loginFault tells apart a host key that changed, one that nobody knows, and a refused login.
func (h *Host) loginFault(address string, err error) error {
	var key *knownhosts.KeyError
	if !errors.As(err, &key) {
		if strings.Contains(err.Error(), "unable to authenticate") {
			return fault.Newf("log in", fault.Denied, h.machine.Name, "%s refuses user %s with the key %s", address, h.access.User, h.access.KeyFile)
		}
		return fault.New("log in", fault.Transient, h.machine.Name, err)
	}
	if len(key.Want) == 0 {
		return fault.Newf("check host key", fault.Denied, h.machine.Name,
			"no key of %s is known; check its fingerprint at its console, then: ssh-keyscan -t ed25519 %s >> %s", address, h.machine.Address, h.access.KnownHostsFile)
	}
	return fault.Newf("check host key", fault.Denied, h.machine.Name,
		"the key of %s has changed (expected %s): somebody else answers there, or the machine was made again; in that case: ssh-keygen -R %s -f %s, then add the new key",
		address, ssh.FingerprintSHA256(key.Want[0].Key), h.machine.Address, h.access.KnownHostsFile)
}

// beat ends a connection that nothing comes back from, so that no call hangs for ever.
func (h *Host) beat() {
	ended := make(chan struct{})
	go func() { _ = h.client.Wait(); close(ended) }()
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	answers := make(chan error, 1)
	waiting, missed := false, 0
	for {
		select {
		case <-ended:
			return
		case <-answers:
			waiting, missed = false, 0
		case <-ticker.C:
			if missed++; missed > missedBeats {
				_ = h.client.Close()
				return
			}
			if !waiting {
				waiting = true
				go func() {
					_, _, err := h.client.SendRequest("keepalive@openssh.com", true, nil)
					answers <- err
				}()
			}
		}
	}
}

// Close ends the connection.
func (h *Host) Close() error {
	if err := h.client.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fault.New("log out", fault.Transient, h.machine.Name, err)
	}
	return nil
}

// Name is the machine's name in its document.
func (h *Host) Name() string { return h.machine.Name }

// Address is the machine's address in its document.
func (h *Host) Address() string { return h.machine.Address }

// Command is a shell script with its streams.
type Command struct {
	Script string
	Stdin  io.Reader
	Stdout io.Writer
}

// Run runs a script with sh as root. An error holds the exit code and the end of what it wrote to
// standard error. When ctx ends, or Stdout takes no more, the script's processes are ended; Stdout is
// not written to after Run has returned.
func (h *Host) Run(ctx context.Context, command Command) error {
	session, err := h.client.NewSession()
	if err != nil {
		return fault.New("run on machine", fault.Transient, h.machine.Name, err)
	}
	defer session.Close()
	ctx, give := context.WithCancelCause(ctx)
	defer give(nil)
	out := &output{to: command.Stdout, give: give}
	defer out.close()
	diagnostics := &diagnostics{kept: bounded{limit: stderrBytes}}
	session.Stdin, session.Stdout, session.Stderr = command.Stdin, out, diagnostics
	// sshd makes the shell the leader of a process group; its number comes first.
	if err := session.Start("echo $$ >&2; exec " + h.shell(command.Script)); err != nil {
		return fault.New("run on machine", fault.Transient, h.machine.Name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err := <-ended:
		if ctx.Err() != nil {
			return endedBy(h.machine.Name, context.Cause(ctx))
		}
		return h.exitFault(err, diagnostics.String())
	case <-ctx.Done():
		h.end(diagnostics.group(), ended)
		return endedBy(h.machine.Name, context.Cause(ctx))
	}
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
// the session leaves running what does not write.
func (h *Host) end(group string, ended <-chan error) {
	for _, signal := range []string{"TERM", "KILL"} {
		if session, err := h.client.NewSession(); err == nil && group != "" {
			_ = session.Run(h.shell("kill -s " + signal + " -- -" + group)) // it may have ended
			_ = session.Close()
		}
		timer := time.NewTimer(endWithin)
		select {
		case <-ended:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
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

// diagnostics is a script's standard error: the number of its process group on the first line, then
// what it says.
type diagnostics struct {
	mu     sync.Mutex
	leader []byte
	known  bool
	kept   bounded
}

func (d *diagnostics) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(p)
	if !d.known {
		line, rest, found := bytes.Cut(p, []byte("\n"))
		d.leader, d.known, p = append(d.leader, line...), found, rest
	}
	_, err := d.kept.Write(p)
	return n, err
}

// group is empty before the script has begun.
func (d *diagnostics) group() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := strconv.Atoi(string(d.leader)); err != nil || !d.known {
		return ""
	}
	return string(d.leader)
}

func (d *diagnostics) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept.String()
}

func endedBy(machine string, cause error) error {
	var known *fault.Error
	if errors.As(cause, &known) {
		return cause
	}
	return fault.New("run on machine", fault.Transient, machine, cause)
}

func (h *Host) exitFault(err error, diagnostics string) error {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fault.New("run on machine", fault.Transient, h.machine.Name, err)
	case strings.Contains(diagnostics, "No space left on device"):
		return fault.Newf("run on machine", fault.NoSpace, h.machine.Name, "%s", diagnostics)
	case strings.Contains(diagnostics, "sudo: a password is required"):
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

// Quote makes one shell word of any text.
func Quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// Output runs a script and returns what it wrote to standard output.
func (h *Host) Output(ctx context.Context, script string) (string, error) {
	var out bytes.Buffer
	err := h.Run(ctx, Command{Script: script, Stdout: &out})
	return out.String(), err
}

// noSuchFile is the exit code of our own scripts for a path that is not there.
const noSuchFile = 66

// ReadFile reads a file; fault.NotFound when there is none.
func (h *Host) ReadFile(ctx context.Context, name string) ([]byte, error) {
	var out bytes.Buffer
	quoted := Quote(name)
	err := h.Run(ctx, Command{Script: fmt.Sprintf("[ -e %s ] || exit %d; cat %s", quoted, noSuchFile, quoted), Stdout: &out})
	var exit *ExitError
	if errors.As(err, &exit) && exit.Code == noSuchFile {
		return nil, fault.New("read file on "+h.machine.Name, fault.NotFound, name, fs.ErrNotExist)
	}
	return out.Bytes(), err
}

// WriteFile replaces a file as a whole: after a crash the old or the new content stands there. The
// content travels over standard input and is in no process list.
func (h *Host) WriteFile(ctx context.Context, name string, mode fs.FileMode, data []byte) error {
	temporary := Quote(name + ".muster-new")
	script := fmt.Sprintf("set -e; mkdir -p %s; umask 077; cat > %s; chmod %o %s; sync %s; mv -f %s %s",
		Quote(path.Dir(name)), temporary, mode.Perm(), temporary, temporary, temporary, Quote(name))
	return h.Run(ctx, Command{Script: script, Stdin: bytes.NewReader(data)})
}

// ReplaceFile replaces the content of a file that is there, through symbolic links, and keeps its
// owner and mode. After a crash the old or the new content stands there.
func (h *Host) ReplaceFile(ctx context.Context, name string, data []byte) error {
	script := fmt.Sprintf(`set -e; file=$(readlink -f %s); umask 077; cat > "$file.muster-new"; chown --reference="$file" "$file.muster-new"
chmod --reference="$file" "$file.muster-new"; sync "$file.muster-new"; mv -f "$file.muster-new" "$file"`, Quote(name))
	return h.Run(ctx, Command{Script: script, Stdin: bytes.NewReader(data)})
}

// Service asks the machine's systemctl: start, stop, restart, enable, disable, is-active. Stopping a
// unit that the machine does not have is no error.
func (h *Host) Service(ctx context.Context, action, unit string) error {
	script := "systemctl " + action + " " + Quote(unit) + " >&2"
	if action == "stop" {
		script += " || [ $? -eq 5 ]" // systemctl(1): the unit is not loaded
	}
	return h.Run(ctx, Command{Script: script})
}

// ReloadServices makes the machine's systemd read units, and containerd its configuration, as they are
// on its disk now.
func (h *Host) ReloadServices(ctx context.Context) error {
	return h.Run(ctx, Command{Script: "systemctl daemon-reload >&2 && systemctl restart containerd >&2"})
}

// StopPods ends every pod's processes, through the container runtime.
func (h *Host) StopPods(ctx context.Context) error {
	return h.Run(ctx, Command{Script: `
if command -v crictl >/dev/null; then crictl rmp -fa >/dev/null 2>&1 || true; exit 0; fi
command -v ctr >/dev/null || exit 0
for task in $(ctr -n k8s.io task list -q 2>/dev/null); do ctr -n k8s.io task kill -s KILL "$task" >/dev/null 2>&1 || true; done
for task in $(ctr -n k8s.io task list -q 2>/dev/null); do ctr -n k8s.io task delete -f "$task" >/dev/null 2>&1 || true; done
for container in $(ctr -n k8s.io container list -q 2>/dev/null); do ctr -n k8s.io container delete "$container" >/dev/null 2>&1 || true; done
`})
}
