// Command muster-provider-mem is the provider that keeps volumes in memory or in a folder: for tests, and to
// try Muster without a storage backend. Muster starts it.
package main

import (
	"os"
	"time"

	"github.com/musterdr/muster/providers/mem"
	"github.com/musterdr/muster/providers/rpc"
)

func main() {
	os.Exit(rpc.Serve(mem.New(mem.Config{Now: time.Now, Version: rpc.Version()})))
}
