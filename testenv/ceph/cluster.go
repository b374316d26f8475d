package ceph

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// readyWithin bounds the start of a cluster.
const readyWithin = 2 * time.Minute

// Pool is the pool for images that every cluster has.
const Pool = "rbd"

// Filesystem is the CephFS of a cluster that has one.
const Filesystem = "cephfs"

// Config says what cluster to start.
type Config struct {
	Dir     string // the cluster's folder; made, and removed by Close
	Address string // an address of this machine (or of Netns); empty: 127.0.0.1
	Netns   string // name of the network namespace that the daemons run in; empty: the caller's
	Size    int64  // bytes of the OSD's disk, a sparse file; 0: 8 GiB
	Files   bool   // with an MDS and a CephFS
	// Options are lines of ceph.conf's global section, over those that are set here.
	Options map[string]string
}

// Cluster is a running cluster.
type Cluster struct {
	FSID       string
	MonHost    string // as mon_host in ceph.conf
	ConfigFile string // names the keyring of client.admin

	config  Config
	daemons map[Daemon]*process
}

// Start starts a cluster; what an earlier process left in the folder is ended and removed first.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if config.Address == "" {
		config.Address = "127.0.0.1"
	}
	if config.Size == 0 {
		config.Size = 8 << 30
	}
	if err := Sweep(config.Dir); err != nil {
		return nil, err
	}
	c := &Cluster{config: config, ConfigFile: filepath.Join(config.Dir, "ceph.conf"), daemons: map[Daemon]*process{}}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start Ceph in %s: %w", config.Dir, err), c.logs(), c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.files(ctx); err != nil {
		return err
	}
	if err := c.Run(Monitor); err != nil {
		return err
	}
	disk, err := uuid()
	if err != nil {
		return err
	}
	if _, err := c.Ceph(ctx, "osd", "new", disk); err != nil {
		return err
	}
	if err := c.Run(Manager); err != nil {
		return err
	}
	if _, err := c.exec(ctx, "", "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk); err != nil {
		return err
	}
	if err := c.Run(OSD); err != nil {
		return err
	}
	if err := c.pools(ctx); err != nil {
		return err
	}
	return c.Ready(ctx)
}

func (c *Cluster) pools(ctx context.Context) error {
	script := "osd pool create " + Pool + " 8\nosd pool application enable " + Pool + " rbd\n"
	if c.config.Files {
		script += "osd pool create cephfs.meta 4\nosd pool create cephfs.data 4\nfs new " + Filesystem + " cephfs.meta cephfs.data\n"
	}
	if err := c.Script(ctx, script); err != nil {
		return err
	}
	if !c.config.Files {
		return nil
	}
	return c.Run(Metadata)
}

// Ready waits until all daemons that run serve.
func (c *Cluster) Ready(ctx context.Context) error {
	return c.await(ctx, func(ctx context.Context) (bool, error) {
		status, err := c.Ceph(ctx, "-s", "--format", "json")
		if err != nil {
			return false, err
		}
		return c.serves(status)
	})
}

// await asks until the answer is yes.
func (c *Cluster) await(ctx context.Context, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		done, err := ask(ctx)
		if done {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("Ceph was not ready within %s", readyWithin), err)
		}
	}
}

// Ceph runs the ceph command as client.admin and returns its output.
func (c *Cluster) Ceph(ctx context.Context, args ...string) (string, error) {
	return c.exec(ctx, "", "ceph", append([]string{"--connect-timeout", "60"}, args...)...)
}

// Script runs several lines of the ceph command at the cost of one.
func (c *Cluster) Script(ctx context.Context, lines string) error {
	out, err := c.exec(ctx, lines, "ceph", "--connect-timeout", "60")
	if err == nil && strings.Contains(out, "Error ") {
		return fmt.Errorf("ceph: %s", tail(out))
	}
	return err
}

// RBD runs the stock rbd command as client.admin and returns its output.
func (c *Cluster) RBD(ctx context.Context, args ...string) (string, error) {
	return c.exec(ctx, "", "rbd", args...)
}

// User makes a user ("muster" for client.muster) with capabilities ("mon": "profile rbd") and returns its
// keyring file.
func (c *Cluster) User(ctx context.Context, name string, caps map[string]string) (string, error) {
	args := []string{"auth", "get-or-create", "client." + name}
	for service, allowed := range caps {
		args = append(args, service, allowed)
	}
	keyring, err := c.Ceph(ctx, args...)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.config.Dir, "client."+name+".keyring")
	return path, os.WriteFile(path, []byte(keyring), 0o600)
}

// AddPool makes another pool for images.
func (c *Cluster) AddPool(ctx context.Context, name string) error {
	return c.Script(ctx, fmt.Sprintf("osd pool create %[1]s 4\nosd pool application enable %[1]s rbd\n", name))
}

// Close ends the cluster and removes its folder.
func (c *Cluster) Close() error {
	for _, daemon := range []Daemon{Metadata, OSD, Manager, Monitor} {
		c.Kill(daemon)
	}
	return Sweep(c.config.Dir)
}

func freePort(address string) (string, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, errors.Join(err, listener.Close())
}

func uuid() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	return strings.TrimSpace(string(raw)), err
}
