package journal

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/crashpoint"
)

// Archive turns the events of a run into one compressed record, which takes a hundredth of the room
// and can't be appended to any more. Nobody may own the run. It can be repeated.
func (s *Store) Archive(ctx context.Context, id string) error {
	if parts, err := s.archived(ctx, id); err != nil || parts > 0 {
		return err
	}
	events, _, err := s.events(ctx, id, 0)
	if err != nil {
		return err
	}
	packed, err := pack(events)
	if err != nil {
		return fault.New("archive run", fault.Internal, id, err)
	}
	// Parts without their count are no archive: an attempt that dies here is made again.
	parts := 0
	for part := range slices.Chunk(packed, partBytes) {
		if _, err := s.client.Put(ctx, runKey(id, fmt.Sprintf("archive/%06d", parts)), string(part)); err != nil {
			return s.fail("archive run", id, err)
		}
		parts++
	}
	crashpoint.Here("journal.before-archive")
	done, err := s.client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(runKey(id, "owner")), "=", 0),
		clientv3.Compare(clientv3.Value(runKey(id, "sequence")), "=", strconv.Itoa(len(events))),
	).Then(
		clientv3.OpPut(runKey(id, "archived"), strconv.Itoa(parts)),
		clientv3.OpDelete(runKey(id, "events/"), clientv3.WithPrefix()),
		clientv3.OpDelete(runKey(id, commandsPrefix), clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return s.fail("archive run", id, err)
	}
	if !done.Succeeded {
		return fault.Newf("archive run", fault.Busy, id, "somebody works on it")
	}
	crashpoint.Here("journal.after-archive")
	return nil
}

// archived returns the number of an archive's parts, 0 when there is none.
func (s *Store) archived(ctx context.Context, id string) (int, error) {
	found, err := s.client.Get(ctx, runKey(id, "archived"))
	if err != nil || len(found.Kvs) == 0 {
		return 0, s.fail("read journal", id, err)
	}
	parts, err := strconv.Atoi(string(found.Kvs[0].Value))
	if err != nil {
		return 0, fault.New("read journal", fault.Corrupt, id, err)
	}
	return parts, nil
}

// eventsSincePacked reads the archive of a run that had no events of its own at a revision; without one
// there are none.
func (s *Store) eventsSincePacked(ctx context.Context, id string, after, revision int64) ([]Event, int64, error) {
	parts, err := s.archived(ctx, id)
	if err != nil || parts == 0 {
		return nil, revision, err
	}
	events, err := s.readArchive(ctx, id, after)
	return events, 0, err
}

func (s *Store) readArchive(ctx context.Context, id string, after int64) ([]Event, error) {
	found, err := s.client.Get(ctx, runKey(id, "archive/"), clientv3.WithPrefix())
	if err != nil {
		return nil, s.fail("read journal", id, err)
	}
	var packed bytes.Buffer
	for _, part := range found.Kvs {
		packed.Write(part.Value)
	}
	events, err := unpack(&packed)
	if err != nil {
		return nil, fault.New("read journal", fault.Corrupt, id, err)
	}
	return slices.DeleteFunc(events, func(e Event) bool { return e.Sequence <= after }), nil
}

func pack(events []Event) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	encoder := json.NewEncoder(w)
	for _, event := range events {
		if err := encoder.Encode(event); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func unpack(packed io.Reader) ([]Event, error) {
	r, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	var events []Event
	for decoder := json.NewDecoder(r); ; {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return events, r.Close()
		}
		if err != nil {
			return nil, err
		}
		event, err := decodeEvent(raw)
		if err != nil {
			return nil, err
		}
		events = append(events, event)
	}
}
