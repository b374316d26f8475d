//go:build cgo && ceph

package ceph

import (
	"errors"
	"fmt"
	"strconv"
)

// csiID is what ceph-csi writes into a volume's handle:
// version (4 hex digits) - length of the cluster's ID (4) - cluster's ID - pool's ID (16) - object's UUID
// (https://github.com/ceph/ceph-csi/blob/devel/docs/design/proposals/volume-condition.md speaks of it;
// internal/util/volid.go is its definition).
type csiID struct {
	cluster string
	pool    int64 // of a CephFS: the filesystem's ID
	uuid    string
}

const uuidLength = 36

func parseCSI(handle string) (csiID, error) {
	bad := func(why string) (csiID, error) {
		return csiID{}, fmt.Errorf("%q is no volume handle of ceph-csi: %s", handle, why)
	}
	const head = len("0001-0024-")
	if len(handle) < head || handle[4] != '-' || handle[9] != '-' {
		return bad("it does not begin with a version and a length")
	}
	if version, err := strconv.ParseUint(handle[:4], 16, 16); err != nil || version != 1 {
		return bad("its version is not 1")
	}
	length, err := strconv.ParseUint(handle[5:9], 16, 16)
	if err != nil {
		return bad("its length is no number")
	}
	rest := handle[head:]
	if len(rest) != int(length)+len("-0000000000000000-")+uuidLength {
		return bad("its length is wrong")
	}
	cluster, rest := rest[:length], rest[length:]
	if rest[0] != '-' || rest[17] != '-' {
		return bad("a '-' is missing")
	}
	pool, err := strconv.ParseInt(rest[1:17], 16, 64)
	if err != nil {
		return bad(errors.Unwrap(err).Error())
	}
	return csiID{cluster, pool, rest[18:]}, nil
}

func (c csiID) String() string {
	return fmt.Sprintf("0001-%04x-%s-%016x-%s", len(c.cluster), c.cluster, c.pool, c.uuid)
}
