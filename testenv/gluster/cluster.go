// Package gluster makes real GlusterFS pools of lab machines.
//
// A peer is a lab machine with glusterd, reached from the host by its address on the lab's bridge: by SSH
// with the lab's key, and by FUSE. Whatever runs on a peer, and all its bricks, end with the machine.
package gluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/testenv"
)

// BrickRoot is the folder on every peer under which bricks may lie: an XFS filesystem of its own.
const BrickRoot = "/bricks"

// Disk is the device behind BrickRoot.
const disk = "vdb"

// Machine describes a lab machine that Start can take: it has glusterd, and bytes for bricks.
func Machine(name string, bytes int64) testenv.Machine {
	return testenv.Machine{
		Name: name, Role: testenv.RoleBlank, Disks: []testenv.Disk{{Name: disk, Bytes: bytes}},
		Packages: []string{"glusterfs-server", "attr", "openssh-client", "python3-pyxattr"},
	}
}

// Cluster is a trusted pool.
type Cluster struct {
	Lab   *testenv.Lab
	Peers []testenv.Machine
}

// Start makes a pool of machines of a lab that are there.
func Start(ctx context.Context, lab *testenv.Lab, names ...string) (*Cluster, error) {
	c := &Cluster{Lab: lab}
	for _, name := range names {
		m, ok := lab.State.Machines[name]
		if !ok {
			return nil, fmt.Errorf("lab %s has no machine %q", lab.State.Name, name)
		}
		c.Peers = append(c.Peers, *m)
	}
	if err := c.each(ctx, start); err != nil {
		return nil, err
	}
	for _, peer := range c.Peers[1:] {
		if _, err := c.CLI(ctx, "peer", "probe", peer.Address); err != nil {
			return nil, err
		}
	}
	return c, c.connected(ctx)
}

// Up makes the machines of a pool in a lab, each with bytes for bricks, and starts it.
func Up(ctx context.Context, lab *testenv.Lab, bytes int64, names ...string) (*Cluster, error) {
	for _, name := range names { // one after the other: a lab's state is not for several
		if err := lab.NewMachine(ctx, Machine(name, bytes)); err != nil {
			return nil, err
		}
	}
	return Start(ctx, lab, names...)
}

// start is run on every peer. Names that the lab's absent name server would be asked for cost seconds, and
// so does the configuration of geo-replication, which glusterd leaves out when gsyncd is away. The key folder
// is what glusterfind takes for granted.
const start = `
sed -i 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf
mkfs.xfs -q -f -i size=512 /dev/` + disk + `
mkdir -p ` + BrickRoot + ` /var/lib/glusterd/glusterfind/.keys
mount /dev/` + disk + ` ` + BrickRoot + `
` + glusterd

const glusterd = `
gsyncd=$(echo /usr/lib/*/glusterfs/gsyncd)
mv "$gsyncd" "$gsyncd.away"
glusterd --pid-file=/run/glusterd.pid
mv "$gsyncd.away" "$gsyncd"
`

func (c *Cluster) each(ctx context.Context, script string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, peer := range c.Peers {
		group.Go(func() error {
			_, err := c.Lab.Exec(ctx, peer.Name, script, nil)
			return err
		})
	}
	return group.Wait()
}

// CLI runs gluster on the first peer.
func (c *Cluster) CLI(ctx context.Context, args ...string) (string, error) {
	return c.Exec(ctx, c.Peers[0].Name, "exec gluster --mode=script "+strings.Join(args, " "))
}

// Exec runs a shell script on a peer.
func (c *Cluster) Exec(ctx context.Context, peer, script string) (string, error) {
	return c.Lab.Exec(ctx, peer, script, nil)
}

// connected waits until every peer sees all others.
func (c *Cluster) connected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, peer := range c.Peers {
		if err := Await(ctx, func() bool {
			out, err := c.Exec(ctx, peer.Name, "gluster --mode=script peer status")
			return err == nil && strings.Count(out, "Peer in Cluster (Connected)") == len(c.Peers)-1
		}); err != nil {
			return fmt.Errorf("peer %s does not see the others: %w", peer.Name, err)
		}
	}
	return nil
}

// Kill ends glusterd and all bricks of a peer, Revive starts them again and waits until the pool is whole.
func (c *Cluster) Kill(ctx context.Context, peer string) error {
	_, err := c.Exec(ctx, peer, "while pkill -KILL -x 'glusterd|glusterfsd|glusterfs'; do sleep 0.05; done")
	return err
}

// Revive is the inverse of Kill.
func (c *Cluster) Revive(ctx context.Context, peer string) error {
	if _, err := c.Exec(ctx, peer, "pgrep -x glusterd >/dev/null || { "+glusterd+"}"); err != nil {
		return err
	}
	return c.connected(ctx)
}

// Cut takes a peer's network away, Mend gives it back; the pool is whole again some time later.
func (c *Cluster) Cut(ctx context.Context, peer string) error {
	_, err := c.Exec(ctx, peer, "ip link set eth0 down")
	return err
}

// Mend is the inverse of Cut.
func (c *Cluster) Mend(ctx context.Context, peers ...string) error {
	var problems []error
	for _, peer := range peers {
		_, err := c.Exec(ctx, peer, "ip link set eth0 up && { ip route show default | grep -q . || ip route add default via "+c.Lab.Gateway()+"; }")
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// Await waits until a condition holds, or the context ends.
func Await(ctx context.Context, holds func() bool) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}
