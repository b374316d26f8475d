package journal

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterdr/muster/providers/fault"
)

const locksPrefix = "/muster/v1/locks/"

// holder is the value of a lock.
type holder struct {
	Run string `json:"run"`
	identity
}

// Lock takes named resources for the run, all of them, until it is released: the keys end with the
// run's lease. They are taken in the order of their names, so that two runs cannot wait for each other.
//
// A resource that another run holds is fault.Busy, naming that run; with wait, Lock tells waiting who
// holds it and goes on when it is free.
func (j *Journal) Lock(ctx context.Context, names []string, wait bool, waiting func(name, run string)) error {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	for _, name := range names {
		if err := j.lockOne(ctx, name, wait, waiting); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) lockOne(ctx context.Context, name string, wait bool, waiting func(name, run string)) error {
	told := ""
	for {
		held, revision, err := j.tryLock(ctx, name)
		if err != nil || held == nil {
			return err
		}
		if !wait {
			return fault.Newf("lock", fault.Busy, name, "run %s of %s works on it: wait until it has ended (muster runs show %s), or cancel it; a plan with onLocked: wait waits by itself",
				held.Run, held.Owner, held.Run)
		}
		if told != held.Run {
			told = held.Run
			waiting(name, held.Run)
		}
		if err := j.awaitUnlock(ctx, name, revision); err != nil {
			return err
		}
	}
}

// tryLock takes the resource, or returns who holds it and the revision at which that was seen.
func (j *Journal) tryLock(ctx context.Context, name string) (*holder, int64, error) {
	key := locksPrefix + name
	raw, err := json.Marshal(holder{Run: j.id, identity: self(j.store.config.Owner)})
	if err != nil {
		return nil, 0, fault.New("lock", fault.Internal, name, err)
	}
	put := clientv3.OpPut(key, string(raw), clientv3.WithLease(j.lease))
	var done *clientv3.TxnResponse
	err = j.store.patiently(ctx, func(ctx context.Context) (err error) {
		done, err = j.store.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(put).Else(clientv3.OpGet(key)).Commit()
		return err
	})
	if err != nil {
		return nil, 0, j.store.fail("lock", name, err)
	}
	if done.Succeeded {
		return nil, 0, nil
	}
	found := done.Responses[0].GetResponseRange().Kvs[0]
	var held holder
	if err := json.Unmarshal(found.Value, &held); err != nil {
		return nil, 0, fault.New("lock", fault.Corrupt, name, err)
	}
	if held.Run != j.id && !held.dead() {
		return &held, done.Header.Revision, nil
	}
	// It is this run's own from an earlier process, or its process is known to be dead.
	taken, err := j.store.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", found.ModRevision)).Then(put).Commit()
	if err != nil {
		return nil, 0, j.store.fail("lock", name, err)
	}
	if taken.Succeeded {
		return nil, 0, nil
	}
	return &held, done.Header.Revision, nil
}

// awaitUnlock returns when the lock has changed, and now and then, since watches end.
func (j *Journal) awaitUnlock(ctx context.Context, name string, revision int64) error {
	limited, cancel := context.WithTimeout(ctx, leaseSeconds*time.Second)
	defer cancel()
	watch := j.store.client.Watch(limited, locksPrefix+name, clientv3.WithRev(revision+1))
	select {
	case <-watch:
	case <-limited.Done():
	case <-j.lost:
		return fault.Newf("lock", fault.Denied, name, "the run belongs to another process now")
	}
	if ctx.Err() != nil {
		return fault.New("lock", fault.Transient, name, context.Cause(ctx))
	}
	return nil
}

// Locks lists the resources that are taken, by name, with the runs that hold them.
func (s *Store) Locks(ctx context.Context) (map[string]string, error) {
	found, err := s.client.Get(ctx, locksPrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, s.fail("list locks", "", err)
	}
	locks := map[string]string{}
	for _, kv := range found.Kvs {
		var held holder
		if err := json.Unmarshal(kv.Value, &held); err != nil {
			return nil, fault.New("list locks", fault.Corrupt, string(kv.Key), err)
		}
		locks[strings.TrimPrefix(string(kv.Key), locksPrefix)] = held.Run
	}
	return locks, nil
}
