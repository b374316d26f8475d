package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
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
