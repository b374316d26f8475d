package ceph

import (
	"context"
	"os"
	"os/exec"
	"strings"
)

// Tags are the build tags with which the Ceph provider compiles against Debian 12's headers.
func Tags() []string { return []string{"ceph", "ceph_preview", "pacific"} }

// ClientFiles are what another machine needs to use the cluster as client.admin, by their paths there: below
// /run, which no capture of the machine takes along.
func (c *Cluster) ClientFiles() map[string]string {
	keyring, err := os.ReadFile(c.path("keyring"))
	if err != nil {
		keyring = nil // the client says that it has no key
	}
	config := []string{"[global]", "fsid = " + c.FSID, "mon_host = " + c.MonHost, "keyring = /run/ceph-client/keyring"}
	return map[string]string{"/run/ceph-client/ceph.conf": strings.Join(config, "\n") + "\n", "/run/ceph-client/keyring": string(keyring)}
}

// Shell runs a shell script in which rbd and the other commands speak to this cluster as client.admin.
func (c *Cluster) Shell(ctx context.Context, script string) (string, error) {
	command := exec.CommandContext(ctx, "bash", "-euc", script)
	command.Env = append(os.Environ(), "CEPH_CONF="+c.ConfigFile, "CEPH_ARGS=")
	out, err := command.Output()
	return string(out), err
}
