package journal

import (
	"context"
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterdr/muster/providers/fault"
)

// Command is what an operator asks of a run, or decides for it.
type Command struct {
	ID     string         `json:"id"`   // unique in the run
	Verb   string         `json:"verb"` // pause, cancel, undo, retry, skip, approve, reject
	Step   string         `json:"step,omitempty"`
	By     string         `json:"by"`           // who typed it: user@host
	As     string         `json:"as,omitempty"` // the role in which it was decided
	Reason string         `json:"reason,omitempty"`
	Values map[string]any `json:"values,omitempty"` // what a manual step asked for
	Time   time.Time      `json:"time"`
}

const commandsPrefix = "commands/"

// Request leaves a command for the process that owns the run; it is durable on return. What becomes of
// it is an event of the run.
func (s *Store) Request(ctx context.Context, run string, command Command) error {
	raw, err := json.Marshal(command)
	if err != nil {
		return fault.New("ask run", fault.Internal, run, err)
	}
	var done *clientv3.TxnResponse
	err = s.patiently(ctx, func(ctx context.Context) (err error) {
		done, err = s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(runKey(run, "header")), ">", 0)).
			Then(clientv3.OpPut(runKey(run, commandsPrefix+command.ID), string(raw))).Commit()
		return err
	})
	if err == nil && !done.Succeeded {
		return fault.Newf("ask run", fault.NotFound, run, "there is no such run")
	}
	return s.fail("ask run", run, err)
}

// Commands receives what operators ask, those first that were left before the run had an owner.
func (j *Journal) Commands() <-chan Command { return j.commands }

// Take appends what a command led to, and removes the command, in one transaction: it is obeyed once.
func (j *Journal) Take(ctx context.Context, command Command, events ...Event) ([]Event, error) {
	return j.append(ctx, events, clientv3.OpDelete(runKey(j.id, commandsPrefix+command.ID)))
}

func (j *Journal) watchCommands() {
	prefix := runKey(j.id, commandsPrefix)
	seen := map[string]bool{}
	for j.living.Err() == nil {
		waiting, err := j.store.client.Get(j.living, prefix, clientv3.WithPrefix())
		if err != nil {
			j.rest()
			continue
		}
		for _, kv := range waiting.Kvs {
			j.deliver(kv.Value, seen)
		}
		watch := j.store.client.Watch(clientv3.WithRequireLeader(j.living), prefix, clientv3.WithPrefix(), clientv3.WithRev(waiting.Header.Revision+1))
		for response := range watch {
			for _, change := range response.Events {
				if change.Type == clientv3.EventTypePut {
					j.deliver(change.Kv.Value, seen)
				}
			}
		}
		j.rest() // the watch ended: its revision was compacted, or the leader is gone
	}
}

func (j *Journal) deliver(raw []byte, seen map[string]bool) {
	var command Command
	if err := json.Unmarshal(raw, &command); err != nil || seen[command.ID] {
		return // nobody's command; Prune removes it with the run
	}
	seen[command.ID] = true
	select {
	case j.commands <- command:
	case <-j.living.Done():
	}
}

// rest keeps a loop over a server that does not answer from spinning.
func (j *Journal) rest() {
	select {
	case <-j.living.Done():
	case <-time.After(time.Second):
	}
}
