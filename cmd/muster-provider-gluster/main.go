// Command muster-provider-gluster is the provider for GlusterFS volumes. Muster starts it.
package main

import (
	"os"
	"time"

	"github.com/musterdr/muster/providers/gluster"
	"github.com/musterdr/muster/providers/rpc"
)

func main() {
	os.Exit(rpc.Serve(gluster.New(gluster.Config{Now: time.Now, Version: rpc.Version()})))
}
