package repository

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv"
)

func s3Config(t *testing.T, server testenv.S3) Config {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		URL: "s3://" + server.Bucket + "/clusters/prod", Key: key, CacheDir: t.TempDir(), Now: time.Now,
		S3: plans.S3{Endpoint: server.Endpoint, Region: server.Region, PathStyle: true, CAFile: server.CAFile, CredentialsFile: server.CredentialsFile},
	}
}

// forgetCredentials keeps what a credentials file put into the environment from other tests.
func forgetCredentials(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
		t.Setenv(name, "") // restores the old value at the end
	}
}

// TestS3 keeps a recovery point on an S3 server. Nothing in plain text is there, and no credential
// stands in a file of this machine but the one that it was given in.
func TestS3(t *testing.T) {
	server := testenv.NeedS3(t)
	forgetCredentials(t)
	config := s3Config(t, server)
	if err := Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := Create(t.Context(), config); !fault.Is(err, fault.Exists) {
		t.Errorf("second create: %v", err)
	}
	f := fixture{Repository: reopen(t, config), config: config}
	content := []byte(strings.Repeat("nothing of this may be read on the server. ", 50_000))
	point := f.seal(t, "prod-1", content)
	r, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(t.Context()) // it was only read
	opened, err := r.OpenPath(t.Context(), point, "etcd/snapshot.db")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(opened); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes back, %v", len(got), err)
	}
	if _, err := r.Verify(t.Context(), point, func(int64, int64) {}); err != nil {
		t.Error(err)
	}
	if plain, err := server.Holds(content[:40]); err != nil || plain {
		t.Errorf("the server holds plain text: %v, %v", plain, err)
	}
	if _, err := os.Stat(filepath.Join(server.Folder, "clusters/prod/kopia.repository")); err != nil {
		t.Errorf("the repository does not stand under its prefix: %v", err)
	}
	_, secret := server.Credentials()
	lookFor(t, config.CacheDir, secret, config.Key.password)
}

// lookFor wants none of the texts in any file of a folder.
func lookFor(t *testing.T, dir string, texts ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		for _, text := range texts {
			if bytes.Contains(content, []byte(text)) {
				t.Errorf("%s holds a secret", filepath.Base(path))
			}
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
}

func TestS3Refuses(t *testing.T) {
	server := testenv.NeedS3(t)
	forgetCredentials(t)
	write := func(content string) string {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		kind   fault.Kind
		text   string
	}{
		{"no repository", func(*Config) {}, fault.NotFound, "muster init"},
		{"no bucket", func(c *Config) { c.URL = "s3://nowhere/prod" }, fault.NotFound, "bucket"},
		{"wrong secret", func(c *Config) {
			c.S3.CredentialsFile = write("[default]\naws_access_key_id = lab-access\naws_secret_access_key = planted-wrong\n")
		}, fault.Denied, "credentials"},
		{"half a credentials file", func(c *Config) { c.S3.CredentialsFile = write("[default]\naws_access_key_id = x\n") }, fault.Invalid, "aws_secret_access_key"},
		{"no credentials file", func(c *Config) { c.S3.CredentialsFile = "/nowhere" }, fault.NotFound, "/nowhere"},
		{"another authority", func(c *Config) { c.S3.CAFile = "" }, fault.Denied, "certificate"},
		{"path style on AWS", func(c *Config) { c.S3.Endpoint = "" }, fault.Unsupported, "pathStyle"},
		{"endpoint without a host", func(c *Config) { c.S3.Endpoint = "s3.example.org" }, fault.Invalid, "https://host:port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := s3Config(t, server)
			c.change(&config)
			_, err := Open(t.Context(), config)
			if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %s with %q", err, c.kind, c.text)
			}
			if err != nil && strings.Contains(err.Error(), "planted") {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}
