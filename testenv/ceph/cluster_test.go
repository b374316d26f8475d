package ceph

import (
	"os"
	"strings"
	"testing"
)

// TestCluster holds that a cluster starts, serves images and files, and leaves nothing behind, after a
// crash too.
func TestCluster(t *testing.T) {
	dir := t.TempDir() + "/ceph"
	lost := Need(t, Config{Dir: dir})
	c := Need(t, Config{Dir: dir, Files: true})
	<-lost.daemons[Monitor].ended // swept
	if _, err := c.RBD(t.Context(), "create", "--size", "1G", "rbd/one"); err != nil {
		t.Fatal(err)
	}
	keyring, err := c.User(t.Context(), "reader", map[string]string{"mon": "profile rbd", "osd": "profile rbd-read-only"})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.RBD(t.Context(), "--id", "reader", "--keyring", keyring, "ls"); err != nil || strings.TrimSpace(out) != "one" {
		t.Fatal(out, err)
	}
	if _, err := c.RBD(t.Context(), "--id", "reader", "--keyring", keyring, "rm", "--no-progress", "one"); err == nil {
		t.Fatal("a reader has deleted an image")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatal(err)
	}
}
