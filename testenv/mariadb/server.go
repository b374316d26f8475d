package mariadb

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

// Program is the server.
const Program = "/usr/sbin/mariadbd"

// Password is that of root.
const Password = `planted-database-password-"7c\ #04`

// Server is a server with its own folder.
type Server struct {
	Dir     string // holds data, socket and log
	owner   *syscall.Credential
	options []string
	process *exec.Cmd
	ended   chan struct{} // closed when process has ended
}

// Install makes sure that the programs are on this machine; no server runs by that.
func Install(ctx context.Context) error {
	return testenv.Install(ctx, "mariadb-server", "mariadb-client", "mariadb-backup")
}

// Need starts a server for one test, with more options of mariadbd: "--log-bin". Where none can be, the test is
// skipped, or fails when CI is set.
func Need(t testing.TB, options ...string) *Server {
	t.Helper()
	s := Blank(t, options...)
	if err := errors.Join(s.Init(t.Context()), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	return s
}

// Blank is a server without a data folder, which a restore makes.
func Blank(t testing.TB, options ...string) *Server {
	t.Helper()
	testenv.Need(t)
	if err := Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "muster-mariadb")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(dir, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// New gives a folder to a server that Init makes.
func New(dir string, options ...string) (*Server, error) {
	owner, err := user.Lookup("mysql")
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
	s := &Server{Dir: dir, options: options, owner: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	client := "[client]\nuser=root\nsocket=" + s.Socket() + "\npassword=\"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(Password) + "\"\n"
	return s, errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, uid, gid), os.WriteFile(s.ClientFile(), []byte(client), 0o644))
}

// Data is the server's data folder.
func (s *Server) Data() string { return filepath.Join(s.Dir, "data") }

// Socket is where the server takes connections.
func (s *Server) Socket() string { return filepath.Join(s.Dir, "socket") }

// Init makes the data folder. Everybody must give a password.
func (s *Server) Init(ctx context.Context) error {
	password := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(Password)
	text := "alter user root@localhost identified by '" + password + "';\n"
	if err := os.WriteFile(s.first(), []byte(text), 0o644); err != nil {
		return err
	}
	_, err := s.Run(ctx, "mariadb-install-db", "--no-defaults", "--datadir="+s.Data(), "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-log-bin", "--innodb-log-file-size=32M")
	return err
}

// first holds what the server executes when it starts for the first time.
func (s *Server) first() string { return filepath.Join(s.Dir, "first.sql") }

// ClientFile holds what clients log in with.
func (s *Server) ClientFile() string { return filepath.Join(s.Dir, "client.cnf") }

// Start starts the server, and waits until it takes connections.
func (s *Server) Start(ctx context.Context) error {
	log := filepath.Join(s.Dir, "log")
	args := append([]string{
		"--no-defaults", "--datadir=" + s.Data(), "--socket=" + s.Socket(), "--pid-file=" + filepath.Join(s.Dir, "pid"), "--skip-networking", "--log-error=" + log,
		"--log-bin=binlog", "--server-id=1", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--innodb-flush-log-at-trx-commit=0", "--character-set-server=utf8mb4",
	}, s.options...)
	if _, err := os.Stat(s.first()); err == nil {
		args = append(args, "--init-file="+s.first())
	}
	s.process, s.ended = exec.Command(Program, args...), make(chan struct{})
	s.process.Dir = s.Dir
	s.process.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	if err := s.process.Start(); err != nil {
		return err
	}
	go func() {
		_ = s.process.Wait() // how it ended says its log
		close(s.ended)
	}()
	for {
		select {
		case <-s.ended:
			text, _ := os.ReadFile(log) // it may not be there yet
			return fmt.Errorf("mariadbd ended\n%s", text)
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if _, err := s.SQL(ctx, "", "select 1"); err == nil {
			return os.RemoveAll(s.first())
		}
	}
}

// Stop ends the server: SIGTERM in an orderly way, SIGKILL as a power cut does.
func (s *Server) Stop(signal syscall.Signal) error {
	if s.process == nil {
		return nil
	}
	if err := s.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	s.process = nil
	return nil
}

// Close ends the server, if it runs, and removes its folder.
func (s *Server) Close() error {
	return errors.Join(s.Stop(syscall.SIGKILL), os.RemoveAll(s.Dir))
}

// Run runs a program as the server's owner.
func (s *Server) Run(ctx context.Context, name string, args ...string) (string, error) {
	var out, diagnostics bytes.Buffer
	command := exec.CommandContext(ctx, name, args...)
	command.Stdout, command.Stderr, command.Dir = &out, &diagnostics, s.Dir
	command.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8", "HOME=" + s.Dir}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	if err := command.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(name), err, diagnostics.String())
	}
	return out.String(), nil
}

// SQL runs statements in a schema as root, and returns the rows, fields with tabs between them.
func (s *Server) SQL(ctx context.Context, schema, statements string) (string, error) {
	args := []string{"--defaults-file=" + s.ClientFile(), "--batch", "--raw", "--skip-column-names", "--default-character-set=utf8mb4", "--execute", statements}
	if schema != "" {
		args = append(args, "--database="+schema)
	}
	out, err := s.Run(ctx, "mariadb", args...)
	return strings.TrimSpace(out), err
}

// Dump is what mariadb-dump shows with these arguments, without what differs from call to call.
func (s *Server) Dump(ctx context.Context, args ...string) (string, error) {
	return s.Run(ctx, "mariadb-dump", append([]string{"--defaults-file=" + s.ClientFile(), "--skip-dump-date", "--hex-blob"}, args...)...)
}

// Source runs statements as the client reads them from a file, with its own commands among them.
func (s *Server) Source(ctx context.Context, statements string) error {
	file := filepath.Join(s.Dir, "statements.sql")
	if err := os.WriteFile(file, []byte(statements), 0o644); err != nil {
		return err
	}
	_, err := s.Run(ctx, "mariadb", "--defaults-file="+s.ClientFile(), "--batch", "--default-character-set=utf8mb4", "--execute", "source "+file)
	return err
}
