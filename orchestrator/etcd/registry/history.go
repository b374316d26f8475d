package registry

import (
	"context"
	"io"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/providers/fault"
)

// Entry is one key of etcd as one revision left it.
type Entry struct {
	Key      string
	Revision int64 // of this change: the object's resourceVersion
	Created  int64 // of the change that made the key
	Deleted  bool
	Value    []byte // as it is stored; nil when deleted
}

// Query chooses entries.
type Query struct {
	// Revision is the moment that is asked for; 0 is the newest.
	Revision int64
	// Wanted chooses keys; nil takes all.
	Wanted func(key string) bool
	// History asks for every change of a key up to Revision, deletions among them, and not for the last alone.
	History bool
}

// Read calls fn with the entries of a snapshot that a query chooses, in the order of their keys, and of one
// key in the order of revisions. size is the file's in bytes. Keys are held in memory, values are not: each is read
// again in its turn.
//
// Errors: NotFound when the revision is compacted away or still to come; Corrupt for damage; those of fn as
// they are.
func Read(ctx context.Context, r io.ReaderAt, size int64, q Query, fn func(Entry) error) error {
	q, err := q.within(r, size)
	if err != nil {
		return err
	}
	found, err := index(ctx, r, size, q)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		for _, at := range found[key] {
			if err := ctx.Err(); err != nil {
				return err
			}
			entry, err := at.read(r)
			if err != nil {
				return err
			}
			if err := fn(entry); err != nil {
				return err
			}
		}
	}
	return nil
}

// Changes calls fn with what a query's revision has in the place of what revision from had, key by key: an entry
// without a value is of a key that did not exist. Errors are those of Read; of the query, History means nothing.
func Changes(ctx context.Context, r io.ReaderAt, size, from int64, q Query, fn func(before, after Entry) error) error {
	var found [2]map[string][]record
	for i, revision := range []int64{from, q.Revision} {
		at, err := Query{Revision: revision, Wanted: q.Wanted}.within(r, size)
		if err != nil {
			return err
		}
		if found[i], err = index(ctx, r, size, at); err != nil {
			return err
		}
	}
	before, after := found[0], found[1]
	keys := slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(after))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if slices.Equal(before[key], after[key]) {
			continue
		}
		was, err := entryOf(r, key, before[key])
		if err != nil {
			return err
		}
		is, err := entryOf(r, key, after[key])
		if err != nil {
			return err
		}
		if err := fn(was, is); err != nil {
			return err
		}
	}
	return nil
}

// entryOf reads the one record of a key, if it has one.
func entryOf(r io.ReaderAt, key string, found []record) (Entry, error) {
	if len(found) == 0 {
		return Entry{Key: key}, nil
	}
	return found[0].read(r)
}

// within names the newest revision where none is asked for, and refuses those that the snapshot does not hold.
func (q Query) within(r io.ReaderAt, size int64) (Query, error) {
	contents, err := pages.Read(r, size)
	if err != nil {
		return q, err
	}
	if q.Revision == 0 {
		q.Revision = contents.Revision
	}
	if q.Revision > contents.Revision || q.Revision < contents.Compacted {
		return q, fault.Newf("read etcd snapshot", fault.NotFound, "", "it has no revision %d: its oldest is %d, its newest %d", q.Revision, max(contents.Compacted, 1), contents.Revision)
	}
	return q, nil
}

// record is where one lies in the file.
type record struct {
	offset, size int64
	revision     int64
	deleted      bool
}

// index finds the records that a query chooses, by key.
func index(ctx context.Context, r io.ReaderAt, size int64, q Query) (map[string][]record, error) {
	out := map[string][]record{}
	err := pages.Records(ctx, r, size, func(found pages.Record) error {
		if found.Revision > q.Revision {
			return nil
		}
		raw, err := keyOf(found.Revision, found.Value)
		if err != nil {
			return err
		}
		key := string(raw)
		if q.Wanted != nil && !q.Wanted(key) {
			return nil
		}
		at := record{found.Offset, int64(len(found.Value)), found.Revision, found.Deleted}
		switch {
		case q.History:
			out[key] = append(out[key], at)
		case found.Deleted:
			delete(out, key)
		default:
			out[key] = []record{at}
		}
		return nil
	})
	return out, err
}

func (at record) read(r io.ReaderAt) (Entry, error) {
	raw := make([]byte, at.size)
	if n, err := r.ReadAt(raw, at.offset); int64(n) < at.size {
		return Entry{}, fault.New("read etcd snapshot", fault.KindOf(err), "", err)
	}
	kv, err := parse(at.revision, raw)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Key: string(kv.Key), Revision: at.revision, Created: kv.CreateRevision, Deleted: at.deleted, Value: kv.Value}, nil
}

// keyOf reads the key alone, and copies nothing: it is a record's first field, as etcd writes it.
func keyOf(revision int64, raw []byte) ([]byte, error) {
	number, kind, n := protowire.ConsumeTag(raw)
	if number == 1 && kind == protowire.BytesType {
		if key, m := protowire.ConsumeBytes(raw[n:]); m > 0 {
			return key, nil
		}
	}
	kv, err := parse(revision, raw)
	if err != nil {
		return nil, err
	}
	return kv.Key, nil
}

func parse(revision int64, raw []byte) (*mvccpb.KeyValue, error) {
	kv := &mvccpb.KeyValue{}
	if err := kv.Unmarshal(raw); err != nil {
		return nil, fault.Newf("read etcd snapshot", fault.Corrupt, "", "the record of revision %d: %w", revision, err)
	}
	return kv, nil
}
