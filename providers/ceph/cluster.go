//go:build cgo && ceph

package ceph

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers/fault"
)

// cluster is a connection to one.
type cluster struct {
	access  access
	timeout time.Duration
	fsid    string

	mu     sync.Mutex
	conn   *rados.Conn
	fenced bool                            // the cluster has blocklisted this client, or shall: only another connection helps
	lost   []string                        // addresses of clients that were given up and are to be blocklisted
	silent struct{ first, last time.Time } // calls that ended by the timeout, one soon after the other
}

// connect connects, and refuses wrong credentials and pools that are not there.
func connect(a access, timeout time.Duration) (*cluster, error) {
	c := &cluster{access: a, timeout: timeout}
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	c.conn = conn
	if c.fsid, err = conn.GetFSID(); err != nil {
		return nil, wrap("configure", c.where(), err)
	}
	for _, pool := range a.Pools {
		if err := c.probe(pool); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *cluster) where() string {
	if len(c.access.MonHosts) > 0 {
		return strings.Join(c.access.MonHosts, ",")
	}
	return c.access.ConfigFile
}

// probe lists a pool's images.
func (c *cluster) probe(pool string) error {
	namespace := ""
	if len(c.access.Namespaces) > 0 {
		namespace = c.access.Namespaces[0]
	}
	io, err := c.pool(pool, namespace)
	if fault.Is(err, fault.NotFound) {
		return fault.Newf("configure", fault.Invalid, pool, "the cluster has no such pool, or the user must not see it: ceph osd pool ls")
	}
	if err != nil {
		return err
	}
	defer io.Destroy()
	_, err = rbd.GetImageNames(io)
	return wrap("configure", pool, gone(err))
}

// dial makes a connection whose operations end: with an error when nobody answers within the timeout, and
// when a pool is full.
func (c *cluster) dial() (*rados.Conn, error) {
	fail := func(err error) (*rados.Conn, error) { return nil, wrap("connect to Ceph", c.where(), err) }
	conn, err := rados.NewConnWithUser(c.access.User)
	if err != nil {
		return fail(err)
	}
	if c.access.ConfigFile != "" {
		if err := conn.ReadConfigFile(c.access.ConfigFile); err != nil {
			return fail(err)
		}
	}
	seconds := strconv.Itoa(int(c.timeout.Seconds()))
	options := [][2]string{
		{"client_mount_timeout", seconds}, {"rados_mon_op_timeout", seconds}, {"rados_osd_op_timeout", seconds},
		{"rbd_cache", "false"}, {"rbd_discard_granularity_bytes", strconv.Itoa(granule)}, {"rbd_concurrent_management_ops", "32"},
		{"log_to_stderr", "false"}, {"err_to_stderr", "false"}, {"log_file", ""}, {"admin_socket", ""},
	}
	if len(c.access.MonHosts) > 0 {
		options = append(options, [2]string{"mon_host", strings.Join(c.access.MonHosts, ",")})
	}
	if c.access.KeyringFile != "" {
		options = append(options, [2]string{"keyring", c.access.KeyringFile})
	}
	for _, option := range options {
		if err := conn.SetConfigOption(option[0], option[1]); err != nil {
			return fail(fmt.Errorf("option %s: %w", option[0], err))
		}
	}
	if err := conn.Connect(); err != nil {
		return fail(err)
	}
	return conn, nil
}

// connection is the live one. A client that was fenced connects anew; its old connection stays for the
// calls that still end on it.
func (c *cluster) connection() (*rados.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fenced {
		conn, err := c.dial()
		if err != nil {
			return nil, err
		}
		c.conn, c.fenced = conn, false
	}
	for len(c.lost) > 0 {
		err := block(c.conn, c.lost[0])
		if err != nil && kindOf(err) != fault.Denied { // who may not fence may not lock images either
			return nil, wrap("fence a lost client", c.where(), err)
		}
		c.lost = c.lost[1:]
	}
	return c.conn, nil
}

// giveUp has another client take this one's place; the cluster ends what this one still has on the way.
func (c *cluster) giveUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fenced {
		return nil
	}
	own, err := c.conn.GetAddrs()
	if err == nil {
		c.fenced, c.lost = true, append(c.lost, addressesIn(own)...)
	}
	return err
}

// addressesIn are the parts of what librados tells of a client, "[v2:10.0.0.1:0/17,v1:10.0.0.1:0/17]".
func addressesIn(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '[' || r == ']' || r == ',' })
}

// note looks whether an error says that this client was fenced, or hears nothing any more.
func (c *cluster) note(err error) error {
	switch errno(err) {
	case syscall.ESHUTDOWN:
		c.mu.Lock()
		c.fenced = true
		c.mu.Unlock()
	case syscall.ETIMEDOUT:
		if c.deaf(time.Now()) {
			return errors.Join(err, c.giveUp())
		}
	}
	return err
}

// deaf reports whether calls have ended by the timeout for long. After an OSD had begun anew, clients of Ceph 16 were
// seen that never asked for the map with its address, while others reached it.
func (c *cluster) deaf(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	long := 5 * c.timeout
	if now.Sub(c.silent.last) > long {
		c.silent.first = now
	}
	c.silent.last = now
	if now.Sub(c.silent.first) < long {
		return false
	}
	c.silent.first = now // the next client has as long
	return true
}

// pool opens a pool with a namespace. Writes into a full pool fail instead of waiting.
func (c *cluster) pool(pool, namespace string) (*rados.IOContext, error) {
	conn, err := c.connection()
	if err != nil {
		return nil, err
	}
	io, err := conn.OpenIOContext(pool)
	if err != nil {
		return nil, wrap("open pool", pool, c.note(err))
	}
	if err := io.SetPoolFullTry(); err != nil {
		io.Destroy()
		return nil, wrap("open pool", pool, err)
	}
	io.SetNamespace(namespace)
	return io, nil
}

// allowed refuses pools that the settings don't name.
func (c *cluster) allowed(op string, at place) error {
	if !slices.Contains(c.access.Pools, at.Pool) {
		return fault.Newf(op, fault.Denied, at.pool(), "the settings' pools are %q; add it there if Muster may use it", c.access.Pools)
	}
	if c.access.Namespaces != nil && !slices.Contains(c.access.Namespaces, at.Namespace) {
		return fault.Newf(op, fault.Denied, at.pool(), "the settings' namespaces are %q; add it there if Muster may use it", c.access.Namespaces)
	}
	return nil
}

// namespaces of a pool that the settings allow.
func (c *cluster) namespaces(pool string) ([]string, error) {
	if c.access.Namespaces != nil {
		return c.access.Namespaces, nil
	}
	io, err := c.pool(pool, "")
	if err != nil {
		return nil, err
	}
	defer io.Destroy()
	names, err := rbd.NamespaceList(io)
	if kind := kindOf(err); err != nil && kind != fault.NotFound && kind != fault.Denied {
		return nil, wrap("list namespaces", pool, c.note(err))
	}
	return append([]string{""}, names...), nil
}

// self is this client's name among the owners of locks.
func (c *cluster) self() (string, error) {
	conn, err := c.connection()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("client.%d", conn.GetInstanceID()), nil
}

func (c *cluster) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Shutdown()
	}
}
