package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterdr/muster/providers/fault"
)

// leaseSeconds is how long an owner that nobody hears from keeps its run.
const leaseSeconds = 10

// Journal is one run, owned by this process. It is safe for concurrent use.
type Journal struct {
	store *Store
	id    string
	key   string
	lease clientv3.LeaseID
	born  int64 // the create revision of the owner's key: the fence

	sequence int64 // of the last event; the writer's alone
	appends  chan *appending

	lost     chan struct{}
	once     sync.Once
	commands chan Command
	living   context.Context // until Release
	cancel   context.CancelFunc
	done     sync.WaitGroup
}

// identity says which process owns a run, so that one that died on this machine needn't be waited
// for.
type identity struct {
	Owner   string `json:"owner"`
	Boot    string `json:"boot"` // of the machine
	PID     int    `json:"pid"`
	Started string `json:"started"` // of the process, in clock ticks since boot
}

func self(owner string) identity {
	return identity{Owner: owner, Boot: bootID(), PID: os.Getpid(), Started: processStart(os.Getpid())}
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// processStart is field 22 of /proc/<pid>/stat (proc(5)), "" when there is no such process or it is
// a zombie.
func processStart(pid int) string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// dead reports whether the process is known to have ended.
func (i identity) dead() bool {
	return i.Boot != "" && i.Boot == bootID() && processStart(i.PID) != i.Started
}

// Acquire makes this process the run's owner. It returns fault.Busy, naming the owner, while another
// process lives that owns it; one that died on this machine is not waited for.
func (s *Store) Acquire(ctx context.Context, id string) (*Journal, error) {
	var lease *clientv3.LeaseGrantResponse
	err := s.patiently(ctx, func(ctx context.Context) (err error) {
		lease, err = s.client.Grant(ctx, leaseSeconds)
		return err
	})
	if err != nil {
		return nil, s.fail("take run", id, err)
	}
	j := &Journal{
		store: s, id: id, key: runKey(id, "owner"), lease: lease.ID, appends: make(chan *appending),
		lost: make(chan struct{}), commands: make(chan Command),
	}
	if err := j.take(ctx); err != nil {
		_, _ = s.client.Revoke(context.WithoutCancel(ctx), lease.ID) // it ends by itself otherwise
		return nil, err
	}
	if err := j.readSequence(ctx); err != nil {
		_, _ = s.client.Revoke(context.WithoutCancel(ctx), lease.ID)
		return nil, err
	}
	j.living, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	j.done.Go(j.keepAlive)
	j.done.Go(j.write)
	j.done.Go(j.watchCommands)
	return j, nil
}

func (j *Journal) take(ctx context.Context) error {
	me, err := json.Marshal(self(j.store.config.Owner))
	if err != nil {
		return fault.New("take run", fault.Internal, j.id, err)
	}
	put := clientv3.OpPut(j.key, string(me), clientv3.WithLease(j.lease))
	free := clientv3.Compare(clientv3.CreateRevision(j.key), "=", 0)
	var done *clientv3.TxnResponse
	err = j.store.patiently(ctx, func(ctx context.Context) (err error) {
		done, err = j.store.client.Txn(ctx).If(free).Then(put).Else(clientv3.OpGet(j.key)).Commit()
		return err
	})
	if err != nil {
		return j.store.fail("take run", j.id, err)
	}
	if done.Succeeded {
		j.born = done.Header.Revision
		return nil
	}
	held := done.Responses[0].GetResponseRange().Kvs[0]
	if clientv3.LeaseID(held.Lease) == j.lease { // an earlier try whose answer got lost
		j.born = held.CreateRevision
		return nil
	}
	var owner identity
	if err := json.Unmarshal(held.Value, &owner); err != nil || !owner.dead() {
		return fault.Newf("take run", fault.Busy, j.id,
			"%s works on it; if that process is gone, try again in %d seconds", owner.Owner, leaseSeconds)
	}
	// Fenced: only if the dead owner's key is still the one that was read.
	same := clientv3.Compare(clientv3.ModRevision(j.key), "=", held.ModRevision)
	cleared, err := j.store.client.Txn(ctx).If(same).Then(clientv3.OpDelete(j.key)).Commit()
	if err != nil {
		return j.store.fail("take run", j.id, err)
	}
	if !cleared.Succeeded {
		return fault.Newf("take run", fault.Busy, j.id, "another process took it just now")
	}
	return j.take(ctx)
}

func (j *Journal) readSequence(ctx context.Context) error {
	found, err := j.store.client.Get(ctx, runKey(j.id, "sequence"))
	if err != nil {
		return j.store.fail("take run", j.id, err)
	}
	if len(found.Kvs) == 0 {
		return fault.Newf("take run", fault.NotFound, j.id, "there is no such run")
	}
	j.sequence, err = strconv.ParseInt(string(found.Kvs[0].Value), 10, 64)
	if err != nil {
		return fault.New("take run", fault.Corrupt, j.id, err)
	}
	return nil
}

func (j *Journal) lose() { j.once.Do(func() { close(j.lost) }) }

// Lost is closed when the lease is lost: nothing more may be done for the run.
func (j *Journal) Lost() <-chan struct{} { return j.lost }

// Events returns all events of the run.
func (j *Journal) Events(ctx context.Context) ([]Event, error) { return j.store.Events(ctx, j.id, 0) }

// Release gives the run up, so that another process can take it at once.
func (j *Journal) Release(ctx context.Context) error {
	j.cancel()
	j.done.Wait()
	if broken := j.store.broken(); broken != nil {
		return broken
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	if _, err := j.store.client.Revoke(ctx, j.lease); err != nil {
		return j.store.fail("release run", j.id, fmt.Errorf("its lease ends by itself in %d seconds: %w", leaseSeconds, err))
	}
	return nil
}

// Owner tells who works on a run.
func (s *Store) Owner(ctx context.Context, id string) (owner string, alive bool, err error) {
	found, err := s.client.Get(ctx, runKey(id, "owner"))
	if err != nil {
		return "", false, s.fail("find owner", id, err)
	}
	if len(found.Kvs) == 0 {
		return "", false, nil
	}
	var who identity
	if err := json.Unmarshal(found.Kvs[0].Value, &who); err != nil {
		return "", false, fault.New("find owner", fault.Corrupt, id, err)
	}
	return who.Owner, !who.dead(), nil
}
