package gluster

import (
	"context"

	"github.com/musterdr/muster/providers"
)

// RunOnFirst runs a script on the first peer, for tests of what becomes of it.
func RunOnFirst(ctx context.Context, p providers.Provider, script string, args ...string) (stdout string, status int, err error) {
	pool, err := p.(*provider).ready("test")
	if err != nil {
		return "", 0, err
	}
	out, err := pool.on(ctx, pool.shells[0], script, args...)
	return string(out.stdout), out.status, err
}
