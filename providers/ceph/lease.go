//go:build cgo && ceph

package ceph

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// leaseTime is how long a process may be silent before another one that wants the same lease takes it over.
const leaseTime = 4 * time.Second

// lease is an object in a pool that one process holds: two processes never make or delete the same thing at
// once. Its holder writes it again and again; who waits sees by the object's version whether the holder
// lives, so that no clocks are compared. Who takes over puts the old holder on the cluster's block list first:
// it can't write any more, and its watches, locks and CephFS sessions end at once instead of after a minute.
type lease struct {
	cluster *cluster
	io      *rados.IOContext
	object  string
	version uint64
	stop    context.CancelFunc
	ended   chan struct{}
}

// exclusive holds a key's lease while body runs; body's context ends when the lease is lost.
func (p *Provider) exclusive(ctx context.Context, op string, c *cluster, at place, key string, body func(ctx context.Context) error) error {
	unlock, err := p.keys.lock(ctx, at.pool()+"/"+key)
	if err != nil {
		return wrap(op, key, err)
	}
	defer unlock()
	io, err := c.pool(at.Pool, at.Namespace)
	if err != nil {
		return err
	}
	defer io.Destroy()
	sum := sha256.Sum256([]byte(key))
	l := &lease{cluster: c, io: io, object: "muster.lease." + hex.EncodeToString(sum[:10]), ended: make(chan struct{})}
	if err := l.acquire(ctx, key); err != nil {
		return wrap(op, at.pool(), c.note(err))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.keep(keep, cancel)
	defer l.release()
	err = body(ctx)
	if cause := context.Cause(ctx); err != nil && fault.Is(cause, fault.Busy) {
		return cause
	}
	return err
}

// acquire waits until the lease is free or its holder is silent. On a full pool it goes on without: what is
// full must be emptied, and nothing can be made there.
func (l *lease) acquire(ctx context.Context, key string) error {
	const pause = 100 * time.Millisecond
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	seen, silent := uint64(0), time.Duration(0)
	for {
		err := l.write(0)
		if kindOf(err) == fault.NoSpace && err != nil {
			return nil
		}
		if err == nil || kindOf(err) != fault.Exists {
			return err
		}
		version, addresses, err := l.look()
		if err != nil && kindOf(err) != fault.NotFound {
			return err
		}
		own, err := l.addresses()
		if err != nil {
			return err
		}
		if version != seen {
			seen, silent = version, 0
		}
		mine := slices.Equal(addresses, own) // an earlier call could not give it back: the keys tell that it has ended
		if version != 0 && (mine || silent >= leaseTime) {
			if mine {
				addresses = nil
			}
			if err = l.takeOver(version, addresses); err == nil {
				return nil
			}
			if kindOf(err) != fault.NotFound && errno(err) != syscall.ERANGE && errno(err) != syscall.EOVERFLOW {
				return err
			}
			silent = 0
		}
		providers.Report(ctx, providers.Progress{Text: "waiting for another process that works on " + key})
		select {
		case <-ticker.C:
			silent += pause
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// write writes the object if it has that version; 0: if it is not there.
func (l *lease) write(version uint64) error {
	op := rados.CreateWriteOp()
	defer op.Release()
	if version == 0 {
		op.Create(rados.CreateExclusive)
	} else {
		op.AssertVersion(version)
	}
	text, err := l.holder()
	if err != nil {
		return err
	}
	op.WriteFull(text)
	if err := op.Operate(l.io, l.object, rados.OperationNoFlag); err != nil {
		return err
	}
	l.version, err = l.io.GetLastVersion()
	return err
}

// takeOver takes the lease from a holder that is silent, and fences its addresses.
func (l *lease) takeOver(version uint64, addresses []string) error {
	if err := l.write(version); err != nil {
		return err
	}
	for _, address := range addresses {
		if err := l.cluster.block(address); err != nil {
			return err
		}
	}
	return nil
}

// holder is what the object says of who has the lease.
type holder struct {
	Host      string   `json:"host"`
	PID       int      `json:"pid"`
	Addresses []string `json:"addresses"`
}

func (l *lease) holder() ([]byte, error) {
	own, err := l.addresses()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return json.Marshal(holder{host, os.Getpid(), own})
}

// addresses are this client's.
func (l *lease) addresses() ([]string, error) {
	conn, err := l.cluster.connection()
	if err != nil {
		return nil, err
	}
	own, err := conn.GetAddrs()
	if err != nil {
		return nil, err
	}
	return addressesIn(own), nil
}

// look tells the object's version, 0 when it is not there, and its holder's addresses.
func (l *lease) look() (uint64, []string, error) {
	raw := make([]byte, 4<<10)
	n, err := l.io.Read(l.object, raw, 0)
	if err != nil {
		return 0, nil, err
	}
	version, err := l.io.GetLastVersion()
	if err != nil {
		return 0, nil, err
	}
	var who holder
	return version, who.Addresses, json.Unmarshal(raw[:n], &who)
}

// keep writes the object until it is told to stop, or somebody else has it.
func (l *lease) keep(ctx context.Context, lost context.CancelCauseFunc) {
	defer close(l.ended)
	ticker := time.NewTicker(leaseTime / 5)
	defer ticker.Stop()
	for l.version != 0 {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := l.write(l.version); err != nil && kindOf(err) != fault.NoSpace && kindOf(err) != fault.Transient {
			l.version = 0
			lost(fault.Newf("hold a lease", fault.Busy, l.object, "another process has taken over: %w", err))
		}
	}
}

func (l *lease) release() {
	l.stop()
	<-l.ended
	if l.version == 0 {
		return
	}
	op := rados.CreateWriteOp()
	defer op.Release()
	op.AssertVersion(l.version)
	op.Remove()
	_ = op.Operate(l.io, l.object, rados.OperationNoFlag) // what stays is taken over like a dead one's
}
