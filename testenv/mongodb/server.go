package mongodb

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/pki"
)

// User and Password are of the account of a server that asks for one.
const (
	User     = "keeper"
	Password = `planted-database-password-"7c\ #'04`
)

// Config says what a server is.
type Config struct {
	ReplicaSet bool // it keeps a log of writes, and replays one
	Auth       bool // it asks for User and Password
	TLS        bool // it takes TLS alone, and CAFile vouches for it
}

// Server is a server with its own folder.
type Server struct {
	Dir      string // holds data and logs
	Port     string // where clients reach it
	Programs string // the folder of mongosh, mongodump and mongorestore
	config   Config
	behind   string // the port of FerretDB, where a front stands before it
	running  []*exec.Cmd
}

// Need starts a server for one test, and has the test find the tools. Where none can be, the test is skipped, or
// fails when CI is set.
func Need(t testing.TB, config Config) *Server {
	t.Helper()
	testenv.Need(t)
	programs, err := testenv.MongoDB(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv("PATH"); !strings.HasPrefix(path, programs+":") {
		t.Setenv("PATH", programs+":"+path)
	}
	s := &Server{Dir: t.TempDir(), Programs: programs, config: config}
	t.Cleanup(s.Stop)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if config.ReplicaSet {
		if _, err := s.JS(t.Context(), "server.getDB('local').createCollection('oplog.rs', {capped: true, size: 256 * 1024 * 1024})"); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Start starts the server, and waits until it takes connections.
func (s *Server) Start(ctx context.Context) error {
	var err error
	if s.Port == "" {
		if s.Port, err = freePort(); err != nil {
			return err
		}
		s.behind = s.Port
		if !s.config.TLS { // nothing stands before such a server
			if s.behind, err = freePort(); err != nil {
				return err
			}
		}
	}
	data := filepath.Join(s.Dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	args := []string{"--handler=sqlite", "--debug-addr=-", "--state-dir=" + s.Dir, "--sqlite-url=file:" + data + "/", "--telemetry=disable", "--log-level=WARN"}
	if s.config.TLS {
		if err := s.certificate(); err != nil {
			return err
		}
		args = append(args, "--listen-addr=", "--listen-tls=127.0.0.1:"+s.behind, "--listen-tls-cert-file="+filepath.Join(s.Dir, "server.crt"), "--listen-tls-key-file="+filepath.Join(s.Dir, "server.key"))
	} else {
		args = append(args, "--listen-addr=127.0.0.1:"+s.behind)
	}
	if s.config.ReplicaSet {
		args = append(args, "--repl-set-name=rs0")
	}
	if s.config.Auth {
		args = append(args, "--test-enable-new-auth", "--setup-database=admin", "--setup-username="+User, "--setup-password="+Password)
	}
	if err := s.run("ferretdb", args...); err != nil {
		return err
	}
	if s.behind != s.Port {
		if err := s.run("front", "127.0.0.1:"+s.Port, "127.0.0.1:"+s.behind); err != nil {
			return err
		}
	}
	return errors.Join(s.listens(ctx, s.behind), s.listens(ctx, s.Port))
}

// listens waits until somebody takes connections at a port.
func (s *Server) listens(ctx context.Context, port string) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			return connection.Close()
		}
		if !s.runs() {
			text, _ := os.ReadFile(filepath.Join(s.Dir, "log")) // it may not be there yet
			return fmt.Errorf("the server ended\n%s", text)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// CAFile vouches for a server with TLS.
func (s *Server) CAFile() string { return filepath.Join(s.Dir, "ca.crt") }

func (s *Server) certificate() error {
	authority, err := pki.New()
	if err != nil {
		return err
	}
	certificate, key, err := authority.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "mongodb"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return errors.Join(err,
		os.WriteFile(s.CAFile(), authority.PEM, 0o600),
		os.WriteFile(filepath.Join(s.Dir, "server.crt"), certificate, 0o600),
		os.WriteFile(filepath.Join(s.Dir, "server.key"), key, 0o600))
}

func (s *Server) run(name string, args ...string) error {
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	process := exec.Command(filepath.Join(s.Programs, name), args...)
	process.Stdout, process.Stderr, process.Dir = log, log, s.Dir
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		return err
	}
	s.running = append(s.running, process)
	return nil
}

// runs tells whether no process has ended by itself. One that has is a zombie until Stop.
func (s *Server) runs() bool {
	for _, process := range s.running {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process.Process.Pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return false
		}
	}
	return true
}

// Stop ends the server as a power cut does.
func (s *Server) Stop() {
	for _, process := range s.running {
		_ = process.Process.Kill() // it may have ended
		_ = process.Wait()         // the error is the signal
	}
	s.running = nil
}

// JS runs a script of mongosh's, in which `server` is the connection, and returns what it prints.
func (s *Server) JS(ctx context.Context, script string) (string, error) {
	var out bytes.Buffer
	err := s.Stream(ctx, script, &out)
	return strings.TrimSpace(out.String()), err
}

// Stream runs a script as JS does, and hands on what it prints at once.
func (s *Server) Stream(ctx context.Context, script string, out io.Writer) error {
	dir, err := os.MkdirTemp(s.Dir, "script")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // what is left goes with the server's folder
	account, options := "", ""
	if s.config.Auth {
		account = "'" + User + ":' + encodeURIComponent(" + fmt.Sprintf("%q", Password) + ") + '@' + "
		options = "&authSource=admin"
	}
	if s.config.TLS {
		options += "&tls=true&tlsCAFile=" + s.CAFile()
	}
	text := "const server = Mongo('mongodb://' + " + account + "'127.0.0.1:" + s.Port + "/?directConnection=true&serverSelectionTimeoutMS=5000" + options + "');\n" + script + "\n"
	file := filepath.Join(dir, "script.js")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	var diagnostics bytes.Buffer
	c := exec.CommandContext(ctx, filepath.Join(s.Programs, "mongosh"), "--quiet", "--norc", "--nodb", file)
	c.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir}
	c.Stdout, c.Stderr = out, &diagnostics
	if err := c.Run(); err != nil {
		return fmt.Errorf("mongosh: %w: %s", err, diagnostics.String())
	}
	return nil
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, errors.Join(err, listener.Close())
}
