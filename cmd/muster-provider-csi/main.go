// Command muster-provider-csi is the provider for the volumes of any CSI driver, through the cluster's own
// snapshot objects. Muster starts it.
package main

import (
	"os"
	"time"

	"github.com/musterdr/muster/providers/csi"
	"github.com/musterdr/muster/providers/rpc"
)

func main() {
	os.Exit(rpc.Serve(csi.New(csi.Config{Now: time.Now, Log: rpc.Log()})))
}
