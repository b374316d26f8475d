// Command muster-provider-aws is the provider for Amazon EBS and EC2. Muster starts it.
package main

import (
	"os"
	"time"

	"github.com/musterdr/muster/providers/aws"
	"github.com/musterdr/muster/providers/rpc"
)

func main() {
	os.Exit(rpc.Serve(aws.New(aws.Config{Now: time.Now, Version: rpc.Version()})))
}
