package gluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/musterdr/muster/providers/fault"
)

// How patient connections are.
const (
	dialTime  = 5 * time.Second
	probeTime = 5 * time.Second // between signs of life, and until the lack of one ends a connection
	endTime   = 5 * time.Second // for a command that was told to end
	// sessions is below sshd's default of ten for one connection.
	sessions = 8
	// maxOutput is what one command may write.
	maxOutput = 64 << 20
)

// shell is one peer's login: one connection, made when it is needed and again after it broke.
type shell struct {
	peer  Peer
	slots chan struct{}

	mu     sync.Mutex
	client *ssh.Client
}

func newShell(peer Peer) *shell { return &shell{peer: peer, slots: make(chan struct{}, sessions)} }

// unreachable is an error of the connection, not of what runs over it: another peer may do.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

func (s *shell) subject() string { return s.peer.Address }

func (s *shell) connect(ctx context.Context) (*ssh.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.client = client
	go s.watch(client)
	return client, nil
}

func (s *shell) dial(ctx context.Context) (*ssh.Client, error) {
	const op = "log in to peer"
	config, err := s.login()
	if err != nil {
		return nil, err
	}
	call := ctx
	ctx, cancel := context.WithTimeout(ctx, 2*dialTime)
	defer cancel()
	address := net.JoinHostPort(s.peer.Address, strconv.Itoa(s.peer.SSH.Port))
	connection, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", address)
	if err != nil && call.Err() == nil {
		return nil, unreachable{fault.Newf(op, fault.Transient, s.subject(), "%w: check that it is up and lets SSH in", err)}
	}
	if err != nil {
		return nil, ended(call, op, s.subject())
	}
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	c, channels, requests, err := ssh.NewClientConn(connection, address, config)
	if stop(); err == nil {
		return ssh.NewClient(c, channels, requests), nil
	}
	_ = connection.Close()
	if call.Err() != nil {
		return nil, ended(call, op, s.subject())
	}
	return nil, s.refusal(op, err)
}

func (s *shell) refusal(op string, err error) error {
	var key *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &key), errors.As(err, &revoked):
		return fault.Newf(op, fault.Denied, s.subject(), "%w: its host key is not the one in %s; if the peer was made anew, replace the line", err, s.peer.SSH.KnownHostsFile)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fault.Newf(op, fault.Denied, s.subject(), "%w: put the public key of %s into the authorized keys of %s", err, s.peer.SSH.KeyFile, s.peer.SSH.User)
	}
	return unreachable{fault.New(op, fault.Transient, s.subject(), err)}
}

func (s *shell) login() (*ssh.ClientConfig, error) {
	const op = "log in to peer"
	raw, err := os.ReadFile(s.peer.SSH.KeyFile)
	if err != nil {
		return nil, fault.New(op, fault.Invalid, s.subject(), err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return nil, fault.Newf(op, fault.Invalid, s.subject(), "key file %s: %w", s.peer.SSH.KeyFile, err)
	}
	check, err := knownhosts.New(s.peer.SSH.KnownHostsFile)
	if err != nil {
		return nil, fault.New(op, fault.Invalid, s.subject(), err)
	}
	return &ssh.ClientConfig{
		User: s.peer.SSH.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: check, Timeout: dialTime,
		HostKeyAlgorithms: knownAlgorithms(check, net.JoinHostPort(s.peer.Address, strconv.Itoa(s.peer.SSH.Port))),
	}, nil
}

// knownAlgorithms are those of the keys that the known hosts hold for the address, so that a server with
// several keys shows the one that is known.
func knownAlgorithms(check ssh.HostKeyCallback, address string) []string {
	var key *knownhosts.KeyError
	if !errors.As(check(address, &net.TCPAddr{IP: net.IPv4zero}, nowhere{}), &key) {
		return nil
	}
	var algorithms []string
	for _, known := range key.Want {
		if known.Key.Type() == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		}
		algorithms = append(algorithms, known.Key.Type())
	}
	return algorithms
}

// nowhere is a key that no host has.
type nowhere struct{}

func (nowhere) Type() string                        { return "none" }
func (nowhere) Marshal() []byte                     { return nil }
func (nowhere) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// watch ends a connection whose peer has fallen silent, and with it the commands over it.
func (s *shell) watch(client *ssh.Client) {
	gone := make(chan struct{})
	go func() { _ = client.Wait(); close(gone) }()
	for {
		answered := make(chan struct{})
		go func() {
			if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
				close(answered)
			}
		}()
		late := time.NewTimer(probeTime)
		select {
		case <-gone:
			late.Stop()
			s.forget(client)
			return
		case <-late.C:
			s.forget(client)
			return
		case <-answered:
		}
		select {
		case <-gone:
		case <-late.C:
		}
	}
}

func (s *shell) forget(client *ssh.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == client {
		s.client = nil
	}
	_ = client.Close()
}

func (s *shell) close() {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client != nil {
		s.forget(client)
	}
}

// outcome is what a command left.
type outcome struct {
	stdout, stderr []byte
	status         int
}

// supervisor runs a script in a session of its own, and ends all of it when standard input ends: when the
// command was cancelled, or the connection is gone.
const supervisor = `exec 3<&0 </dev/null
setsid /bin/sh -c "$@" 3<&- &
job=$!
{ cat <&3; kill -s TERM -- -$job; sleep 2; kill -s KILL -- -$job; } >/dev/null 2>&1 &
watch=$!
wait $job
status=$?
kill $watch 2>/dev/null
exit $status`

// run runs a shell script with arguments on the peer. An exit status is no error.
func (s *shell) run(ctx context.Context, script string, args ...string) (outcome, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return outcome{}, ended(ctx, "run on peer", s.subject())
	}
	client, err := s.connect(ctx)
	if err != nil {
		return outcome{}, err
	}
	session, err := client.NewSession()
	if err != nil {
		s.forget(client)
		return outcome{}, unreachable{fault.New("run on peer", fault.Transient, s.subject(), err)}
	}
	defer session.Close()
	words := append([]string{"/bin/sh", "-c", supervisor, "muster", script, "muster"}, args...)
	if s.peer.SSH.Sudo {
		words = append([]string{"sudo", "-n", "--"}, words...)
	}
	return s.wait(ctx, session, quote(words))
}

func (s *shell) wait(ctx context.Context, session *ssh.Session, command string) (outcome, error) {
	const op = "run on peer"
	stdout, stderr := &limited{limit: maxOutput}, &limited{limit: 64 << 10, drop: true}
	session.Stdout, session.Stderr = stdout, stderr
	stdin, err := session.StdinPipe() // stays open while the command may run
	if err != nil {
		return outcome{}, fault.New(op, fault.Internal, s.subject(), err)
	}
	if err := session.Start(command); err != nil {
		return outcome{}, unreachable{fault.New(op, fault.Transient, s.subject(), err)}
	}
	done := make(chan error, 1)
	go func() { done <- session.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = stdin.Close()
		late := time.NewTimer(endTime)
		defer late.Stop()
		select {
		case <-done:
		case <-late.C:
		}
		return outcome{}, ended(ctx, op, s.subject())
	}
	result := outcome{stdout: stdout.data.Bytes(), stderr: stderr.data.Bytes()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		result.status = exit.ExitStatus()
	case err != nil:
		return result, unreachable{fault.New(op, fault.Transient, s.subject(), err)}
	}
	return result, s.sudoRefused(result)
}

func (s *shell) sudoRefused(o outcome) error {
	if s.peer.SSH.Sudo && o.status == 1 && bytes.HasPrefix(o.stderr, []byte("sudo:")) {
		return fault.Newf("run on peer", fault.Denied, s.subject(), "%s: let %s run sudo without a password", bytes.TrimSpace(o.stderr), s.peer.SSH.User)
	}
	return nil
}

// ended is the error of a call whose context ended.
func ended(ctx context.Context, op, subject string) error {
	return fault.New(op, fault.Transient, subject, context.Cause(ctx))
}

// limited is a buffer that takes so much: more is an error, or dropped.
type limited struct {
	data  bytes.Buffer
	limit int
	drop  bool
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	room := l.limit - l.data.Len()
	if len(p) <= room {
		return l.data.Write(p)
	}
	if !l.drop {
		return 0, fmt.Errorf("%w: more than %d bytes of output", io.ErrShortBuffer, l.limit)
	}
	l.data.Write(p[:room])
	return len(p), nil
}

// quote makes one shell command of words.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
