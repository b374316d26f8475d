package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"testing"
)

// errNoBinaries says that this machine cannot run the servers.
var errNoBinaries = errors.New("no Kubernetes binaries: run `bin/lab build` once, or set MUSTER_KUBERNETES_BIN to their folder")

// Shared is a server that all tests of a package share. Its zero value is ready to use; TestMain
// calls Stop after the tests.
type Shared struct {
	Config Config

	once   sync.Once
	server *Server
	err    error
}

// Need starts the server when this is its first call. Where there are no binaries the test is
// skipped, or fails when CI is set; MUSTER_LAB=off skips it everywhere.
func (s *Shared) Need(t testing.TB) *Server {
	t.Helper()
	if os.Getenv("MUSTER_LAB") == "off" {
		t.Skip("MUSTER_LAB is off")
	}
	s.once.Do(func() { s.server, s.err = Start(context.Background(), s.Config) })
	if errors.Is(s.err, errNoBinaries) && os.Getenv("CI") != "true" {
		t.Skip(s.err)
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

// Stop ends the server if it was started.
func (s *Shared) Stop() error {
	if s.server == nil {
		return nil
	}
	return s.server.Stop()
}

// Need starts a server for one test alone.
func Need(t testing.TB, config Config) *Server {
	t.Helper()
	shared := &Shared{Config: config}
	server := shared.Need(t)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// NeedBinaries is the folder that holds etcd and the Kubernetes servers. Where there is none the test is
// skipped, or fails when CI is set.
func NeedBinaries(t testing.TB) string {
	t.Helper()
	ci := os.Getenv("CI") == "true"
	if os.Getenv("MUSTER_LAB") == "off" && !ci {
		t.Skip("left out: MUSTER_LAB is off")
	}
	bin, err := binaries()
	if errors.Is(err, errNoBinaries) && !ci {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// binaries finds the folder that holds etcd and the Kubernetes servers.
func binaries() (string, error) {
	if dir := os.Getenv("MUSTER_KUBERNETES_BIN"); dir != "" {
		if complete(dir) {
			return dir, nil
		}
		return "", fmt.Errorf("MUSTER_KUBERNETES_BIN is %q, which lacks etcd, kube-apiserver or kube-controller-manager", dir)
	}
	cache, err := labCache()
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(cache, "*", "kube-apiserver"))
	if err != nil {
		return "", err
	}
	deeper, err := filepath.Glob(filepath.Join(cache, "*", "*", "kube-apiserver"))
	if err != nil {
		return "", err
	}
	found = append(found, deeper...)
	sort.Strings(found)
	for i := len(found) - 1; i >= 0; i-- { // the newest version sorts last
		if dir := filepath.Dir(found[i]); complete(dir) {
			return dir, nil
		}
	}
	return "", errNoBinaries
}

func complete(dir string) bool {
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

func labCache() (string, error) {
	if dir := os.Getenv("MUSTER_LAB_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "muster-lab"), nil
}
