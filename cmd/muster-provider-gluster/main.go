// Command muster-provider-gluster is the provider for GlusterFS volumes. Muster starts it.
package main

import (
	"os"
	"runtime/debug"
	"time"

	"github.com/musterdr/muster/providers/gluster"
	"github.com/musterdr/muster/providers/rpc"
)

func main() {
	os.Exit(rpc.Serve(gluster.New(gluster.Config{Now: time.Now, Version: version()})))
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "dev"
}
