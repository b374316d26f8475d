package journal

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// beatEvery is how often the lease is renewed: three beats may fail before it ends.
const beatEvery = leaseSeconds * time.Second / 4

// keepAlive renews the lease. While etcd does not answer nobody can take the run either, since a lease
// ends by the word of a quorum alone: so the run is not given up, it waits. It is lost when etcd says
// that the lease has ended.
func (j *Journal) keepAlive() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	away := false
	for {
		select {
		case <-j.living.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(j.living, beatEvery)
		_, err := j.store.client.KeepAliveOnce(ctx, j.lease)
		cancel()
		switch {
		case j.living.Err() != nil:
			return
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			j.lose()
			return
		case err != nil && !away:
			away = true
			j.store.config.Log.Warn("the journal does not answer: nothing new is started until it does", "journal", j.store.where(), "error", err)
		case err == nil && away:
			away = false
			j.store.config.Log.Warn("the journal answers again: the run goes on", "journal", j.store.where())
		}
	}
}
