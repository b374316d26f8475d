// Package apiserver runs a real kube-apiserver on a real etcd, on loopback, for tests that need the
// Kubernetes API and no machines. Tests that need nodes and running pods use the lab (testenv).
//
// A Server is one etcd, one kube-apiserver and, where asked for, one kube-controller-manager. The
// binaries come from the lab's cache, or from the folder that MUSTER_KUBERNETES_BIN names.
package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// The Services' addresses; the first one is the API server's own.
const (
	addresses  = "10.96.0.0/16"
	ownAddress = "10.96.0.1"
)

// readyWithin bounds the start; an idle machine needs three seconds.
const readyWithin = 90 * time.Second

// Config says what to start.
type Config struct {
	// Controllers starts a kube-controller-manager too: garbage collection, namespaces' deletion,
	// default service accounts, Deployments and the rest.
	Controllers bool
	// Encryption is an EncryptionConfiguration for encryption at rest; empty: objects are stored in the clear.
	Encryption []byte
}

// Server is a running API server. It ends with Stop, and with the process that started it.
type Server struct {
	Kubeconfig []byte // of a member of system:masters
	URL        string // https://127.0.0.1:port
	Etcd       string // http://127.0.0.1:port

	dir       string
	processes []*exec.Cmd
}

// Start starts a server and returns when it is ready.
func Start(ctx context.Context, config Config) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "muster-apiserver-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	if err := s.start(ctx, bin, config); err != nil {
		return nil, errors.Join(fmt.Errorf("start an API server for tests: %w", err), s.logs(), s.Stop())
	}
	return s, nil
}

// Stop ends the processes and removes their files.
func (s *Server) Stop() error {
	for i := len(s.processes) - 1; i >= 0; i-- {
		process := s.processes[i]
		_ = process.Process.Kill()
		_ = process.Wait() // the error is the signal that Kill sent
	}
	s.processes = nil
	return os.RemoveAll(s.dir)
}

func (s *Server) start(ctx context.Context, bin string, config Config) error {
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	s.Etcd = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	s.URL = fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	identity, err := newIdentity(s.dir, s.URL)
	if err != nil {
		return err
	}
	s.Kubeconfig = identity.kubeconfig
	if err := s.run(filepath.Join(bin, "etcd"), etcdArguments(s.dir, s.Etcd, ports[1])...); err != nil {
		return err
	}
	arguments := serverArguments(s.dir, s.Etcd, ports[2])
	if len(config.Encryption) > 0 {
		path := filepath.Join(s.dir, "encryption.yaml")
		if err := os.WriteFile(path, config.Encryption, 0o600); err != nil {
			return err
		}
		arguments = append(arguments, "--encryption-provider-config", path)
	}
	if err := s.run(filepath.Join(bin, "kube-apiserver"), arguments...); err != nil {
		return err
	}
	if err := s.ready(ctx, identity); err != nil || !config.Controllers {
		return err
	}
	return s.run(filepath.Join(bin, "kube-controller-manager"), controllerArguments(s.dir, ports[3])...)
}

func (s *Server) run(program string, arguments ...string) error {
	command := exec.Command(program, arguments...)
	log, err := os.Create(filepath.Join(s.dir, filepath.Base(program)+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	// A test binary that is killed must not leave servers behind.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return err
	}
	s.processes = append(s.processes, command)
	return nil
}

// ready waits until the server answers /readyz as the administrator, and has given its own Service an address:
// that it makes a moment later, and a capture that came between would differ from the next one.
func (s *Server) ready(ctx context.Context, identity identity) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(identity.ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{identity.admin}, MinVersion: tls.VersionTLS12,
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for {
		err := readyOnce(ctx, client, s.URL+"/readyz")
		if err == nil {
			err = readyOnce(ctx, client, s.URL+"/apis/networking.k8s.io/v1/ipaddresses/"+ownAddress)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready within %s: %w", readyWithin, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func readyOnce(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 2048))
	return fmt.Errorf("%s: %s", response.Status, text)
}

// logs returns the end of each process's log as an error, for the message of a failed start.
func (s *Server) logs() error {
	files, err := filepath.Glob(filepath.Join(s.dir, "*.log"))
	if err != nil {
		return err
	}
	var all error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all = errors.Join(all, fmt.Errorf("%s: %s", filepath.Base(file), text[max(0, len(text)-1500):]))
	}
	return all
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func etcdArguments(dir, endpoint string, peerPort int) []string {
	peer := fmt.Sprintf("http://127.0.0.1:%d", peerPort)
	return []string{
		"--data-dir", filepath.Join(dir, "etcd"), "--name", "default",
		"--listen-client-urls", endpoint, "--advertise-client-urls", endpoint,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "default=" + peer, "--unsafe-no-fsync",
	}
}

func serverArguments(dir, etcd string, port int) []string {
	return []string{
		"--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
		"--secure-port", fmt.Sprint(port), "--endpoint-reconciler-type", "none",
		"--tls-cert-file", filepath.Join(dir, "server.crt"), "--tls-private-key-file", filepath.Join(dir, "server.key"),
		"--client-ca-file", filepath.Join(dir, "ca.crt"), "--authorization-mode", "Node,RBAC",
		"--service-account-key-file", filepath.Join(dir, "sa.pub"),
		"--service-account-signing-key-file", filepath.Join(dir, "sa.key"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--allow-privileged",
		"--service-cluster-ip-range", addresses, "--cert-dir", dir,
	}
}

func controllerArguments(dir string, port int) []string {
	kubeconfig := filepath.Join(dir, "kubeconfig")
	return []string{
		"--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig,
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port), "--cert-dir", dir,
		"--service-account-private-key-file", filepath.Join(dir, "sa.key"), "--root-ca-file", filepath.Join(dir, "ca.crt"),
		"--leader-elect=false", "--use-service-account-credentials=false", "--kube-api-qps", "500", "--kube-api-burst", "500",
	}
}
