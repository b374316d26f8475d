package journal

import (
	"context"
	"encoding/json"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Publish shows others how far the run's tasks are. It replaces what was published before, is no part
// of the journal, and ends with the owner's lease.
func (j *Journal) Publish(ctx context.Context, progress json.RawMessage) error {
	_, err := j.store.client.Put(ctx, runKey(j.id, "progress"), string(progress), clientv3.WithLease(j.lease))
	return j.store.fail("publish progress", j.id, err)
}

// Progress returns what a run's owner published last, nil when nobody works on it.
func (s *Store) Progress(ctx context.Context, id string) (json.RawMessage, error) {
	found, err := s.client.Get(ctx, runKey(id, "progress"))
	if err != nil || len(found.Kvs) == 0 {
		return nil, s.fail("read progress", id, err)
	}
	return found.Kvs[0].Value, nil
}
