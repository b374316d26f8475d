//go:build crashpoints

package crashpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var hits atomic.Int64

// Here kills the process when the environment names this point. SIGKILL leaves no deferred call,
// no flush and no handler a chance, as a power cut does.
func Here(name string) {
	want, count, _ := strings.Cut(os.Getenv("MUSTER_CRASHPOINT"), ":")
	if want != name {
		return
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		n = 1
	}
	if hits.Add(1) == n {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
}
