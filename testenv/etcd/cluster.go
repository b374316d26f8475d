// Package etcd runs real etcd clusters as processes of this machine, with TLS, for tests that kill and stop
// members.
package etcd

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/apiserver"
	"github.com/musterdr/muster/testenv/pki"
)

// readyWithin bounds the start of a cluster.
const readyWithin = time.Minute

// Cluster is a running cluster.
type Cluster struct {
	CAFile, CertFile, KeyFile string

	dir     string
	program string
	address string
	members []*member
}

type member struct {
	name         string
	client, peer string // host:port
	process      *exec.Cmd
}

// Need starts a cluster of n members for one test. Where there are no binaries the test is skipped, or
// fails when CI is set.
func Need(t testing.TB, n int) *Cluster {
	t.Helper()
	return NeedAt(t, n, "127.0.0.1")
}

// NeedAt starts a cluster at an address of this machine, of a lab's bridge for one.
func NeedAt(t testing.TB, n int, address string) *Cluster {
	t.Helper()
	return need(t, n, address, filepath.Join(apiserver.NeedBinaries(t), "etcd"))
}

// Versions are the releases of etcd that NeedVersion can start.
var Versions = []string{"3.4", "3.5", "3.6"}

// NeedVersion starts a member of one of Versions.
func NeedVersion(t testing.TB, version string) *Cluster {
	t.Helper()
	bin := apiserver.NeedBinaries(t)
	program, err := filepath.Join(bin, "etcd"), error(nil)
	switch version {
	case "3.4":
		program, err = testenv.Etcd34(t.Context())
	case "3.5":
		program, err = testenv.Etcd35(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return need(t, 1, "127.0.0.1", program)
}

func need(t testing.TB, n int, address, program string) *Cluster {
	t.Helper()
	c := &Cluster{dir: t.TempDir(), program: program, address: address}
	t.Cleanup(c.stop)
	if err := c.start(t.Context(), n); err != nil {
		t.Fatal(errors.Join(err, c.logs()))
	}
	return c
}

func (c *Cluster) start(ctx context.Context, n int) error {
	if err := c.identity(); err != nil {
		return err
	}
	for i := range n {
		m, err := c.newMember(fmt.Sprintf("m%d", i))
		if err != nil {
			return err
		}
		c.members = append(c.members, m)
	}
	for i := range n {
		if err := c.launch(i, "new"); err != nil {
			return err
		}
	}
	return c.Ready(ctx)
}

func (c *Cluster) newMember(name string) (*member, error) {
	m := &member{name: name}
	for _, into := range []*string{&m.client, &m.peer} {
		listener, err := net.Listen("tcp", net.JoinHostPort(c.address, "0"))
		if err != nil {
			return nil, err
		}
		*into = listener.Addr().String()
		if err := listener.Close(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (c *Cluster) identity() error {
	authority, err := pki.New()
	if err != nil {
		return err
	}
	certificate, key, err := authority.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "etcd"}, IPAddresses: []net.IP{net.ParseIP(c.address)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	c.CAFile, c.CertFile, c.KeyFile = filepath.Join(c.dir, "ca.crt"), filepath.Join(c.dir, "member.crt"), filepath.Join(c.dir, "member.key")
	return errors.Join(os.WriteFile(c.CAFile, authority.PEM, 0o600), os.WriteFile(c.CertFile, certificate, 0o600), os.WriteFile(c.KeyFile, key, 0o600))
}

// Endpoints are the client URLs of all members.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for _, m := range c.members {
		urls = append(urls, "https://"+m.client)
	}
	return urls
}

func (c *Cluster) initial() string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.name+"=https://"+m.peer)
	}
	return strings.Join(all, ",")
}

func (c *Cluster) launch(i int, state string) error {
	m := c.members[i]
	log, err := os.OpenFile(filepath.Join(c.dir, m.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.process = exec.Command(c.program, "--name", m.name, "--data-dir", filepath.Join(c.dir, m.name),
		"--listen-client-urls", "https://"+m.client, "--advertise-client-urls", "https://"+m.client,
		"--listen-peer-urls", "https://"+m.peer, "--initial-advertise-peer-urls", "https://"+m.peer,
		"--initial-cluster", c.initial(), "--initial-cluster-state", state, "--initial-cluster-token", filepath.Base(c.dir),
		"--client-cert-auth", "--trusted-ca-file", c.CAFile, "--cert-file", c.CertFile, "--key-file", c.KeyFile,
		"--peer-client-cert-auth", "--peer-trusted-ca-file", c.CAFile, "--peer-cert-file", c.CertFile, "--peer-key-file", c.KeyFile,
		"--log-level", "warn", "--unsafe-no-fsync") // members are killed, the machine is not
	m.process.Stdout, m.process.Stderr = log, log
	m.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return m.process.Start()
}

// Kill ends a member as a power cut does; its data stays.
func (c *Cluster) Kill(i int) {
	_ = c.members[i].process.Process.Kill()
	_ = c.members[i].process.Wait() // the error is the signal
}

// Start starts a member that was killed.
func (c *Cluster) Start(i int) error { return c.launch(i, "existing") }

// Replace puts a new, empty member in the place of one that was killed.
func (c *Cluster) Replace(ctx context.Context, i int) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	defer client.Close() // every answer was waited for
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, known := range list.Members {
		if known.Name == c.members[i].name {
			if _, err := client.MemberRemove(ctx, known.ID); err != nil {
				return err
			}
		}
	}
	fresh, err := c.newMember(c.members[i].name + "r")
	if err != nil {
		return err
	}
	if err := add(ctx, client, "https://"+fresh.peer); err != nil {
		return err
	}
	c.members[i] = fresh
	return c.launch(i, "existing")
}

// add waits as long as etcd takes no members, since it still counts with the dead one.
func add(ctx context.Context, client *clientv3.Client, peer string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := client.MemberAdd(ctx, []string{peer})
		if !errors.Is(err, rpctypes.ErrUnhealthy) {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Client is a client of the cluster.
func (c *Cluster) Client() (*clientv3.Client, error) {
	security, err := transport.TLSInfo{TrustedCAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}.ClientConfig()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), TLS: security, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
}

// Ready waits until the cluster answers with a quorum.
func (c *Cluster) Ready(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	defer client.Close() // every answer was waited for
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := client.Get(try, "ready")
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("etcd is not ready within %s: %w", readyWithin, err)
		}
	}
}

func (c *Cluster) stop() {
	for i := range c.members {
		if c.members[i].process != nil {
			c.Kill(i)
		}
	}
}

func (c *Cluster) logs() error {
	var all error
	for _, m := range c.members {
		text, err := os.ReadFile(filepath.Join(c.dir, m.name+".log"))
		all = errors.Join(all, err, fmt.Errorf("%s: %s", m.name, text[max(0, len(text)-1500):]))
	}
	return all
}
