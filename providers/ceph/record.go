//go:build cgo && ceph

package ceph

import (
	"github.com/ceph/go-ceph/rados"

	"github.com/musterdr/muster/providers/fault"
)

// recordObject, in the first pool, has a key for every image that a token took a snapshot of: so that the
// token is refused for another image.
const recordObject = "muster.snapshots"

func (c *cluster) records() (*rados.IOContext, error) {
	namespace := ""
	if len(c.access.Namespaces) > 0 {
		namespace = c.access.Namespaces[0]
	}
	return c.pool(c.access.Pools[0], namespace)
}

func recordKey(snap string, at place) string { return snap + "/" + at.pool() + "/" + at.ID }

// recorded refuses a token that another request used.
func (c *cluster) recorded(op, snap, request string) error {
	io, err := c.records()
	if err != nil {
		return err
	}
	defer io.Destroy()
	values, err := io.GetOmapValues(recordObject, "", snap+"/", 1)
	if gone(err) != nil {
		return err
	}
	for key, value := range values {
		if string(value) != request {
			return fault.Newf(op, fault.Exists, key, "the token was used for a different request")
		}
	}
	return nil
}

func (c *cluster) record(snap, request string, images []place) error {
	io, err := c.records()
	if err != nil {
		return err
	}
	defer io.Destroy()
	values := map[string][]byte{}
	for _, at := range images {
		values[recordKey(snap, at)] = []byte(request)
	}
	return io.SetOmap(recordObject, values)
}

func (c *cluster) forget(snap string, at place) error {
	io, err := c.records()
	if err != nil {
		return err
	}
	defer io.Destroy()
	return gone(io.RmOmapKeys(recordObject, []string{recordKey(snap, at)}))
}
