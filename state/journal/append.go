package journal

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

// The bounds of one transaction: etcd takes 128 operations and 1.5 MiB by default.
const (
	batchEvents = 100
	batchBytes  = 1 << 20
	// tryLimit bounds one try of a transaction; without a quorum etcd answers after seconds.
	tryLimit = 10 * time.Second
)

// appending is one caller's events on their way into the journal.
type appending struct {
	events  []Event
	encoded [][]byte
	also    []clientv3.Op
	done    chan error
}

// Append makes events durable, all or none, in one fenced transaction, and returns them with their
// versions and sequence numbers. Events of callers that come at the same time share a transaction.
//
// While etcd does not answer, Append waits and tries again; a try whose answer got lost is not done
// twice. The error's kind is fault.Denied when another process owns the run now: the caller must stop.
func (j *Journal) Append(ctx context.Context, events ...Event) ([]Event, error) {
	return j.append(ctx, events)
}

func (j *Journal) append(ctx context.Context, events []Event, also ...clientv3.Op) ([]Event, error) {
	a := &appending{events: slices.Clone(events), also: also, done: make(chan error, 1)}
	select {
	case j.appends <- a:
	case <-j.living.Done():
		return nil, fault.Newf("append to journal", fault.Denied, j.id, "the run was released")
	case <-ctx.Done():
		return nil, fault.New("append to journal", fault.Transient, j.id, context.Cause(ctx))
	}
	return a.events, <-a.done
}

// write is the one goroutine that appends.
func (j *Journal) write() {
	var left *appending // did not fit into the last transaction
	for {
		first := left
		if first == nil {
			select {
			case <-j.living.Done():
				return
			case first = <-j.appends:
			}
		}
		var batch []*appending
		batch, left = j.gather(first)
		if len(batch) == 0 {
			continue
		}
		err := j.commit(batch)
		for _, a := range batch {
			a.done <- err
		}
	}
}

// gather numbers and encodes what waits, as far as it fits into one transaction.
func (j *Journal) gather(first *appending) (batch []*appending, left *appending) {
	next, bytes, events := j.sequence, 0, 0
	for a := first; ; {
		size, err := a.encode(next)
		switch {
		case err != nil:
			a.done <- err
		case len(batch) > 0 && (bytes+size > batchBytes || events+len(a.events) > batchEvents):
			return batch, a
		default:
			batch, bytes, events = append(batch, a), bytes+size, events+len(a.events)
			next += int64(len(a.events))
		}
		if a = j.waiting(); a == nil {
			return batch, nil
		}
	}
}

// waiting returns events that wait to be appended, nil when there are none. It lets those callers come
// first that can go on: they were answered together, and together their next events are one transaction.
func (j *Journal) waiting() *appending {
	for range 2 {
		select {
		case a := <-j.appends:
			return a
		default:
			runtime.Gosched()
		}
	}
	select {
	case a := <-j.appends:
		return a
	default:
		return nil
	}
}

// encode gives the events their numbers, and returns how many bytes they are.
func (a *appending) encode(after int64) (int, error) {
	a.encoded = a.encoded[:0]
	size := 0
	for i := range a.events {
		a.events[i].Version, a.events[i].Sequence = Version, after+int64(i)+1
		raw, err := json.Marshal(a.events[i])
		if err != nil {
			return 0, fault.New("append to journal", fault.Internal, a.events[i].Type, err)
		}
		a.encoded = append(a.encoded, raw)
		size += len(raw)
	}
	if size > batchBytes {
		return 0, fault.Newf("append to journal", fault.Invalid, a.events[0].Type, "it has %d bytes, and the journal takes %d at a time", size, batchBytes)
	}
	return size, nil
}

// commit writes one batch. Only a process that owns the run moves its sequence, so that a sequence
// that moved after a try without an answer tells that the try came through.
func (j *Journal) commit(batch []*appending) error {
	var operations []clientv3.Op
	next := j.sequence
	for _, a := range batch {
		for i, raw := range a.encoded {
			operations = append(operations, clientv3.OpPut(eventKey(j.id, a.events[i].Sequence), string(raw)))
			if strings.HasPrefix(a.events[i].Type, "run.") {
				operations = append(operations, clientv3.OpPut(runKey(j.id, "state"), a.events[i].Type))
			}
		}
		operations = append(operations, a.also...)
		next += int64(len(a.events))
	}
	operations = append(lastOfEachKey(operations), clientv3.OpPut(runKey(j.id, "sequence"), strconv.FormatInt(next, 10)))
	for attempt := 1; ; attempt++ {
		if broken := j.store.broken(); broken != nil {
			return broken
		}
		crashpoint.Here("journal.before-append")
		succeeded, err := j.try(operations)
		if err == nil && !succeeded && attempt > 1 {
			succeeded, err = j.cameThrough(next)
		}
		if err == nil && succeeded {
			crashpoint.Here("journal.after-append")
			j.sequence = next
			return nil
		}
		if err == nil {
			j.lose()
			return fault.Newf("append to journal", fault.Denied, j.id, "the run belongs to another process now; this one has stopped")
		}
		if !passes(err) {
			return j.store.fail("append to journal", j.id, err)
		}
		if err := j.pause(attempt); err != nil {
			return err
		}
	}
}

// lastOfEachKey drops all but the last write of a key: etcd refuses a transaction with two.
func lastOfEachKey(operations []clientv3.Op) []clientv3.Op {
	last := map[string]int{}
	for i, op := range operations {
		last[string(op.KeyBytes())] = i
	}
	kept := operations[:0:0]
	for i, op := range operations {
		if last[string(op.KeyBytes())] == i {
			kept = append(kept, op)
		}
	}
	return kept
}

func (j *Journal) try(operations []clientv3.Op) (bool, error) {
	ctx, cancel := context.WithTimeout(j.living, tryLimit)
	defer cancel()
	done, err := j.store.client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(j.key), "=", j.born),
		clientv3.Compare(clientv3.Value(runKey(j.id, "sequence")), "=", strconv.FormatInt(j.sequence, 10)),
	).Then(operations...).Commit()
	if err != nil {
		return false, err
	}
	return done.Succeeded, nil
}

func (j *Journal) cameThrough(next int64) (bool, error) {
	ctx, cancel := context.WithTimeout(j.living, tryLimit)
	defer cancel()
	done, err := j.store.client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(j.key), "=", j.born),
		clientv3.Compare(clientv3.Value(runKey(j.id, "sequence")), "=", strconv.FormatInt(next, 10)),
	).Commit()
	if err != nil {
		return false, err
	}
	return done.Succeeded, nil
}

// pause waits before the next try, longer each time.
func (j *Journal) pause(attempt int) error {
	timer := time.NewTimer(min(50*time.Millisecond<<min(attempt, 6), 2*time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-j.lost:
		return fault.Newf("append to journal", fault.Denied, j.id, "the run's lease ended while the journal did not answer: another process may own it; this one has stopped")
	case <-j.living.Done():
		return fault.Newf("append to journal", fault.Transient, j.id, "the run was released while the journal did not answer")
	}
}

// passes reports errors that end by themselves: no leader, no quorum, no connection, a server that
// starts again.
func passes(err error) bool {
	for _, lasting := range []error{
		rpctypes.ErrNoSpace, rpctypes.ErrRequestTooLarge, rpctypes.ErrTooManyOps, rpctypes.ErrPermissionDenied,
		rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken, rpctypes.ErrUserEmpty, rpctypes.ErrCorrupt,
	} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return !errors.Is(err, context.Canceled)
}
