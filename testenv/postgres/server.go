package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/musterdr/muster/testenv"
)

// Programs is the folder of the server's programs.
const Programs = "/usr/lib/postgresql/15/bin"

// Password is that of the role postgres.
const Password = "planted-database-password-5e21"

// Server is a running server.
type Server struct {
	Dir    string // holds data and socket
	Socket string // folder; PGHOST
	// Options are the server's, over those of its configuration: "-c port=1".
	Options string
	owner   *syscall.Credential
}

// Install makes sure that the programs are on this machine; no server is made by that.
func Install(ctx context.Context) error {
	const config = "/etc/postgresql-common/createcluster.conf"
	if _, err := os.Stat(config); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(config), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(config, []byte("create_main_cluster = false\n"), 0o644); err != nil {
			return err
		}
	}
	return testenv.Install(ctx, "postgresql-15", "postgresql-client-15")
}

// Need starts a server for one test, with more lines of postgresql.conf. Where none can be, the test is skipped,
// or fails when CI is set.
func Need(t testing.TB, lines ...string) *Server {
	t.Helper()
	s := Blank(t)
	if err := s.Init(t.Context(), lines...); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Blank gives a place to a server that somebody else fills; it listens in its own folder.
func Blank(t testing.TB) *Server {
	t.Helper()
	testenv.Need(t)
	if err := Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "muster-postgres")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Options = "-c unix_socket_directories=" + dir
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Standby starts a server that replays what a primary writes.
func Standby(t testing.TB, primary *Server) *Server {
	t.Helper()
	s := Blank(t)
	_, err := s.Run(t.Context(), filepath.Join(Programs, "pg_basebackup"), "-D", s.Data(), "-R", "-c", "fast", "-d", "host="+primary.Socket+" user=postgres password='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(Password)+"'")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// New gives a folder to a server that Init makes.
func New(dir string) (*Server, error) {
	owner, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, Socket: dir, owner: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return s, errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, uid, gid))
}

// Data is the server's data folder.
func (s *Server) Data() string { return filepath.Join(s.Dir, "data") }

// Init makes the data folder. Everybody must give a password.
func (s *Server) Init(ctx context.Context, lines ...string) error {
	secret := filepath.Join(s.Dir, "password")
	if err := os.WriteFile(secret, []byte(Password+"\n"), 0o644); err != nil {
		return err
	}
	defer os.Remove(secret)
	_, err := s.Run(ctx, filepath.Join(Programs, "initdb"), "-D", s.Data(), "-U", "postgres", "--auth=scram-sha-256", "--pwfile="+secret, "-E", "UTF8", "--locale=C.UTF-8", "--data-checksums", "-N")
	if err != nil {
		return err
	}
	config := append([]string{"listen_addresses = ''", "unix_socket_directories = '" + s.Socket + "'", "fsync = off", "shared_buffers = 64MB", "max_wal_senders = 4"}, lines...)
	f, err := os.OpenFile(filepath.Join(s.Data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(config, "\n") + "\n")
	return errors.Join(err, f.Close())
}

// Start starts the server, and waits until it takes connections.
func (s *Server) Start(ctx context.Context) error {
	_, err := s.Run(ctx, filepath.Join(Programs, "pg_ctl"), "start", "-D", s.Data(), "-w", "-t", "120", "-l", filepath.Join(s.Dir, "log"), "-o", s.Options)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(s.Dir, "log")) // it may not be there yet
		return fmt.Errorf("%w\n%s", err, log)
	}
	return nil
}

// Stop ends the server: "fast" or "immediate", as a power cut does.
func (s *Server) Stop(ctx context.Context, mode string) error {
	_, err := s.Run(ctx, filepath.Join(Programs, "pg_ctl"), "stop", "-D", s.Data(), "-m", mode, "-w", "-t", "60")
	return err
}

// Close ends the server, if it runs, and removes its folder.
func (s *Server) Close() error {
	if _, err := os.Stat(filepath.Join(s.Data(), "postmaster.pid")); err == nil {
		if err := s.Stop(context.Background(), "immediate"); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.Dir)
}

// Run runs a program as the server's owner, who is let in by password alone.
func (s *Server) Run(ctx context.Context, name string, args ...string) (string, error) {
	var out, diagnostics bytes.Buffer
	command := exec.CommandContext(ctx, name, args...)
	command.Stdout, command.Stderr, command.Dir = &out, &diagnostics, s.Dir
	command.Env = []string{"PATH=" + Programs + ":/usr/bin:/bin", "LANG=C.UTF-8", "PGHOST=" + s.Socket, "PGUSER=postgres", "PGPASSWORD=" + Password}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	if err := command.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(name), err, diagnostics.String())
	}
	return out.String(), nil
}

// SQL runs statements in a database and returns the rows, fields with | between them.
func (s *Server) SQL(ctx context.Context, db, statements string) (string, error) {
	out, err := s.Run(ctx, filepath.Join(Programs, "psql"), "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", db, "-c", statements)
	return strings.TrimSpace(out), err
}

// Must is SQL that may not fail.
func (s *Server) Must(t testing.TB, db, statements string) string {
	t.Helper()
	out, err := s.SQL(t.Context(), db, statements)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
