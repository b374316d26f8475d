package ceph

import (
	"context"
	"os"
	"testing"

	"github.com/musterdr/muster/testenv"
)

// Packages are the Debian packages that a cluster, and the provider, need.
var packages = []string{
	"ceph-mon", "ceph-mgr", "ceph-osd", "ceph-mds", "ceph-common", "ceph-fuse", "rbd-fuse", "librados-dev", "librbd-dev", "libcephfs-dev",
}

// Install makes sure that the programs and headers of Ceph are on this machine.
func Install(ctx context.Context) error { return testenv.Install(ctx, packages...) }

// Need starts a cluster for one test. Where none can be, the test is skipped, or fails when CI is set.
func Need(t testing.TB, config Config) *Cluster {
	t.Helper()
	testenv.Need(t)
	if err := Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if config.Dir == "" {
		config.Dir = t.TempDir()
	}
	c, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Skip tells why there can be no cluster here; empty when there can. For TestMain, which has no testing.T.
func Skip() string {
	switch {
	case os.Getenv("CI") == "true":
		return ""
	case os.Getenv("MUSTER_LAB") == "off":
		return "MUSTER_LAB is off"
	case os.Getuid() != 0:
		return "a Ceph cluster is installed by root"
	}
	return ""
}
