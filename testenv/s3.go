package testenv

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv/pki"
)

// S3 is a running S3 server (versitygw on a folder) with one empty bucket, on loopback, with TLS.
type S3 struct {
	Endpoint        string // https://127.0.0.1:port
	Region          string
	Bucket          string
	CAFile          string
	CredentialsFile string // in the form of AWS
	// Folder holds the objects of the bucket as files.
	Folder string
}

const (
	s3Access = "lab-access"
	s3Secret = "planted-secret-s3-4c1d" //nolint:gosec // of a server that lives as long as a test
)

// NeedS3 starts a server for one test. It needs no root; MUSTER_LAB=off skips the test where CI is not
// set.
func NeedS3(t testing.TB) S3 {
	t.Helper()
	if os.Getenv("MUSTER_LAB") == "off" && os.Getenv("CI") != "true" {
		t.Skip("left out: MUSTER_LAB is off")
	}
	dir := t.TempDir()
	s, process, err := startS3(t.Context(), dir)
	if process != nil {
		t.Cleanup(func() {
			_ = process.Process.Kill()
			_ = process.Wait() // the error is the signal that Kill sent
		})
	}
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("start an S3 server: %v\n%s", err, tail(string(log)))
	}
	return s
}

func startS3(ctx context.Context, dir string) (S3, *exec.Cmd, error) {
	program, err := versitygw(ctx)
	if err != nil {
		return S3{}, nil, err
	}
	port, err := freePort()
	if err != nil {
		return S3{}, nil, err
	}
	s := S3{
		Endpoint: "https://" + port, Region: "lab-1", Bucket: "vault", CAFile: filepath.Join(dir, "ca.crt"),
		CredentialsFile: filepath.Join(dir, "credentials"), Folder: filepath.Join(dir, "data", "vault"),
	}
	if err := s.files(dir); err != nil {
		return s, nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return s, nil, err
	}
	defer log.Close()
	c := exec.Command(program, "--port", port, "--region", s.Region, "--quiet", "--cert", filepath.Join(dir, "server.crt"), "--key", filepath.Join(dir, "server.key"),
		"posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	c.Env = []string{"ROOT_ACCESS_KEY=" + s3Access, "ROOT_SECRET_KEY=" + s3Secret, "HOME=" + dir}
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return s, nil, err
	}
	return s, c, answers(ctx, port)
}

func versitygw(ctx context.Context) (string, error) {
	b, unlock, err := newBuilder(func(string, ...any) {})
	if err != nil {
		return "", err
	}
	defer unlock()
	folder, err := b.goTool(ctx, "versitygw", "github.com/versity/versitygw/cmd/versitygw", "an S3 server")
	return filepath.Join(folder, "versitygw"), err
}

// files makes what the server starts with.
func (s S3) files(dir string) error {
	authority, err := pki.New()
	if err != nil {
		return err
	}
	certificate, key, err := authority.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "s3"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return err
	}
	for _, folder := range []string{s.Folder, filepath.Join(dir, "meta")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	credentials := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s3Access, s3Secret)
	for path, content := range map[string][]byte{
		s.CAFile: authority.PEM, s.CredentialsFile: []byte(credentials),
		filepath.Join(dir, "server.crt"): certificate, filepath.Join(dir, "server.key"): key,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// answers waits until somebody listens.
func answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return connection.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// Credentials are the server's, for tests that look for them where they must not be.
func (s S3) Credentials() (access, secret string) { return s3Access, s3Secret }

// Holds reports whether a file of the bucket holds the bytes.
func (s S3) Holds(content []byte) (bool, error) {
	found := false
	err := filepath.WalkDir(s.Folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || found || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		found = bytes.Contains(raw, content)
		return err
	})
	return found, err
}
