//go:build cgo && ceph

// Command muster-provider-ceph is the provider for Ceph: RBD images and CephFS. Muster starts it.
package main

import (
	"os"
	"time"

	"github.com/musterdr/muster/providers/ceph"
	"github.com/musterdr/muster/providers/rpc"
)

func main() {
	os.Exit(rpc.Serve(ceph.New(ceph.Config{Now: time.Now, Version: rpc.Version()})))
}
