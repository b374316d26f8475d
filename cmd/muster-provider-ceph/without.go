//go:build !cgo || !ceph

// Command muster-provider-ceph is the provider for Ceph: RBD images and CephFS. This file stands for it where
// it was built without Ceph's headers.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "muster-provider-ceph: built without Ceph: install librados-dev, librbd-dev and libcephfs-dev, and run make build")
	os.Exit(9) // unsupported
}
