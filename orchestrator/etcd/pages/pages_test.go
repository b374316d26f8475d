package pages

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
)

// boltFile writes a bbolt file by the real library and returns its bytes.
func boltFile(t interface{ Fatal(...any) }, pageSize int, updates ...func(tx *bbolt.Tx) error) []byte {
	dir, err := os.MkdirTemp("", "bolt")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) // the system's temporary folder
	path := filepath.Join(dir, "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: pageSize, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, update := range updates {
		if err := db.Update(update); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	err = db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(&out)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func revisionKey(main, sub int64, deleted bool) []byte {
	key := binary.BigEndian.AppendUint64(nil, uint64(main))
	key = append(key, '_')
	key = binary.BigEndian.AppendUint64(key, uint64(sub))
	if deleted {
		key = append(key, 't')
	}
	return key
}

// TestReadAgreesWithBbolt builds databases at random with the real library, over several
// transactions with deletions, and compares what both see.
func TestReadAgreesWithBbolt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pageSize := rapid.SampledFrom([]int{1024, 4096, 16384}).Draw(t, "page size")
		newest, compacted := int64(1), int64(0)
		live := map[int64][]byte{}
		var updates []func(tx *bbolt.Tx) error
		next := rapid.Int64Range(1, 1<<40).Draw(t, "first revision")
		for range rapid.IntRange(1, 6).Draw(t, "transactions") {
			count := rapid.IntRange(0, 400).Draw(t, "keys")
			size := rapid.SampledFrom([]int{0, 10, 300, 5000}).Draw(t, "value size")
			added := map[int64][]byte{}
			for range count {
				next++
				added[next] = revisionKey(next, 0, rapid.Bool().Draw(t, "deleted"))
			}
			var dropped [][]byte
			for revision, key := range live {
				if rapid.IntRange(0, 3).Draw(t, "drop") == 0 {
					dropped = append(dropped, key)
					delete(live, revision)
				}
			}
			for revision, key := range added {
				live[revision] = key
			}
			if rapid.Bool().Draw(t, "compact") {
				compacted = rapid.Int64Range(compacted, next).Draw(t, "compacted")
			}
			updates = append(updates, transaction(added, dropped, size, compacted))
		}
		for revision := range live {
			newest = max(newest, revision)
		}
		raw := boltFile(t, pageSize, updates...)
		got, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Fatal(err)
		}
		if got.Revision != max(newest, compacted) || got.Compacted != compacted {
			t.Fatalf("revision %d, compacted %d; want %d, %d", got.Revision, got.Compacted, max(newest, compacted), compacted)
		}
		var records [][]byte
		err = Records(context.Background(), bytes.NewReader(raw), int64(len(raw)), func(r Record) error {
			if !bytes.Equal(raw[r.Offset:r.Offset+int64(len(r.Value))], r.Value) {
				t.Fatalf("the value of revision %d does not stand at offset %d", r.Revision, r.Offset)
			}
			records = append(records, revisionKey(r.Revision, r.Sub, r.Deleted))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := slices.SortedFunc(maps.Values(live), bytes.Compare)
		if !slices.EqualFunc(records, want, bytes.Equal) {
			t.Fatalf("%d records, want %d", len(records), len(want))
		}
		if len(got.Members) != 3 || got.Members[0] != "a" || got.ClusterVersion != "3.6.0" {
			t.Fatalf("members %q, version %q", got.Members, got.ClusterVersion)
		}
	})
}

func transaction(added map[int64][]byte, dropped [][]byte, size int, compacted int64) func(tx *bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		buckets := map[string]*bbolt.Bucket{}
		for _, name := range []string{"alarm", "cluster", "key", "lease", "members", "meta"} {
			bucket, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return err
			}
			buckets[name] = bucket
		}
		for _, key := range dropped {
			if err := buckets["key"].Delete(key); err != nil {
				return err
			}
		}
		for _, key := range added {
			if err := buckets["key"].Put(key, make([]byte, size)); err != nil {
				return err
			}
		}
		for i, name := range []string{"c", "a", "b"} {
			if err := buckets["members"].Put(fmt.Appendf(nil, "%x", i), fmt.Appendf(nil, `{"id":%d,"name":%q}`, i, name)); err != nil {
				return err
			}
		}
		if err := buckets["cluster"].Put([]byte("clusterVersion"), []byte("3.6.0")); err != nil {
			return err
		}
		return buckets["meta"].Put([]byte("finishedCompactRev"), revisionKey(compacted, 0, false))
	}
}

func sample(t interface{ Fatal(...any) }) []byte {
	return boltFile(t, 4096, transaction(revisions(2, 200), nil, 100, 5))
}

func revisions(first, n int64) map[int64][]byte {
	out := map[int64][]byte{}
	for revision := first; revision < first+n; revision++ {
		out[revision] = revisionKey(revision, 0, false)
	}
	return out
}

func TestReadUsesSecondMetaPage(t *testing.T) {
	raw := sample(t)
	clear(raw[:100])
	got, err := Revision(bytes.NewReader(raw), int64(len(raw)))
	if err != nil || got != 201 {
		t.Fatalf("revision %d, error %v", got, err)
	}
}

func TestReadRefusesDamage(t *testing.T) {
	whole := sample(t)
	tests := []struct {
		name   string
		damage func(raw []byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"text", func([]byte) []byte { return bytes.Repeat([]byte("no database\n"), 1000) }},
		{"cut off", func(raw []byte) []byte { return raw[:len(raw)-4096] }},
		{"one page", func(raw []byte) []byte { return raw[:4096] }},
		{"both meta pages", func(raw []byte) []byte { raw[40], raw[4096+40] = raw[40]^1, raw[4096+40]^1; return raw }},
		{"pages zeroed", func(raw []byte) []byte { clear(raw[2*4096:]); return raw }},
		{"not etcd's", func([]byte) []byte {
			return boltFile(t, 4096, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("other")); return err })
		}},
		{"strange keys", func([]byte) []byte {
			return boltFile(t, 4096, func(tx *bbolt.Tx) error {
				bucket, err := tx.CreateBucket([]byte("key"))
				if err != nil {
					return err
				}
				return bucket.Put([]byte("not a revision"), nil)
			})
		}},
		{"loop", loop},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw := tt.damage(bytes.Clone(whole))
			_, err := Revision(bytes.NewReader(raw), int64(len(raw)))
			if !fault.Is(err, fault.Corrupt) {
				t.Errorf("%v error %v", fault.KindOf(err), err)
			}
		})
	}
}

// loop makes a file whose root is a branch that points to itself as often as it can.
func loop([]byte) []byte {
	raw := make([]byte, 4*4096)
	for id := range 2 {
		meta := raw[id*4096+pageHeaderSize:]
		for at, v := range map[int]uint32{0: boltMagic, 4: boltVersion, 8: 4096} {
			binary.LittleEndian.PutUint32(meta[at:], v)
		}
		for at, v := range map[int]uint64{16: 2, 40: 4, 48: uint64(id)} {
			binary.LittleEndian.PutUint64(meta[at:], v)
		}
		sum := fnv.New64a()
		sum.Write(meta[:56])
		binary.LittleEndian.PutUint64(meta[56:], sum.Sum64())
	}
	page := raw[2*4096:]
	binary.LittleEndian.PutUint64(page, 2)
	binary.LittleEndian.PutUint16(page[8:], branchPage)
	binary.LittleEndian.PutUint16(page[10:], 200)
	for i := range 200 {
		binary.LittleEndian.PutUint64(page[pageHeaderSize+i*elementSize+8:], 2)
	}
	return raw
}

// TestDamage cuts a snapshot off everywhere, and flips a bit of every byte: what is read is whole or Corrupt.
func TestDamage(t *testing.T) {
	whole := boltFile(t, 1024, transaction(revisions(2, 60), nil, 100, 5), transaction(revisions(62, 3), nil, 3000, 40))
	check := func(raw []byte) error {
		_, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err == nil {
			err = Records(t.Context(), bytes.NewReader(raw), int64(len(raw)), func(Record) error { return nil })
		}
		if err != nil && !fault.Is(err, fault.Corrupt) {
			t.Fatalf("an error of kind %v: %v", fault.KindOf(err), err)
		}
		return err
	}
	if err := check(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if check(whole[:n]) == nil {
			t.Fatalf("%d of %d bytes are whole", n, len(whole))
		}
	}
	found := 0
	for i := range whole {
		raw := bytes.Clone(whole)
		raw[i] ^= 1 << (i % 8)
		if check(raw) != nil {
			found++
		}
	}
	// Of values, and of the places where nothing stands, only the hash at the end knows. An element says in 12 bytes
	// where its key stands, and how long key and value are; a key, in 17, comes after the one before it.
	if found < 63*(12+17)*3/4 {
		t.Errorf("%d of %d flipped bits were found", found, len(whole))
	}
}

// TestOverlap refuses pages and elements that claim the same bytes many times, whose reading would not end.
func TestOverlap(t *testing.T) {
	same := boltFile(t, 1024, transaction(revisions(2, 3), nil, 50, 0))
	at := bytes.Index(same, revisionKey(3, 0, false))
	copy(same[at:], revisionKey(2, 0, false))
	err := Records(t.Context(), bytes.NewReader(same), int64(len(same)), func(Record) error { return nil })
	if !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("one revision twice: %v", err)
	}
	page := make([]byte, 1024)
	for i := range 3 {
		element := page[pageHeaderSize+i*elementSize:]
		for field, v := range []int{0, 500 - pageHeaderSize - i*elementSize, 17, 300} {
			binary.LittleEndian.PutUint32(element[4*field:], uint32(v))
		}
	}
	copy(page[500:], revisionKey(9, 0, false))
	s := &scan{fn: func(Record) error { return nil }}
	free, err := s.element(page, node{}, 0, 0)
	if err != nil || free != 817 {
		t.Fatalf("the first ends at %d: %v", free, err)
	}
	if _, err := s.element(page, node{}, 1, free); !fault.Is(err, fault.Corrupt) {
		t.Errorf("an element inside another: %v", err)
	}
	s.left = 1023
	if err := s.node(t.Context(), node{end: 1024, flags: leafPage}, maxDepth); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "loop") {
		t.Errorf("more pages than the file has room for: %v", err)
	}
}

// TestManyMembers refuses a bucket that says more about the database than any has to say.
func TestManyMembers(t *testing.T) {
	raw := boltFile(t, 4096, transaction(revisions(2, 1), nil, 1, 0), func(tx *bbolt.Tx) error {
		for i := range 9 {
			if err := tx.Bucket([]byte("members")).Put([]byte{byte(i)}, fmt.Appendf(nil, `{"name":%q}`, strings.Repeat("m", maxBucket/8))); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := Read(bytes.NewReader(raw), int64(len(raw))); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "members") {
		t.Errorf("error %v", err)
	}
}

// FuzzSnapshot changes bytes anywhere in real databases and repairs the checksums of the meta pages, so
// that hostile values get past them.
func FuzzSnapshot(f *testing.F) {
	f.Add(sample(f))
	f.Add(loop(nil))
	f.Add(boltFile(f, 1024, transaction(map[int64][]byte{7: revisionKey(7, 1, true)}, nil, 2000, 9)))
	f.Add(boltFile(f, 1024, transaction(revisions(1, 50), nil, 40, 3), transaction(nil, [][]byte{revisionKey(4, 0, false)}, 0, 3)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, at := range []int{0, 1024, 4096} {
			if meta := at + pageHeaderSize; len(raw) >= meta+metaSize && binary.LittleEndian.Uint32(raw[meta:]) == boltMagic {
				raw = bytes.Clone(raw)
				sum := fnv.New64a()
				sum.Write(raw[meta : meta+56])
				binary.LittleEndian.PutUint64(raw[meta+56:], sum.Sum64())
			}
		}
		got, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil && !fault.Is(err, fault.Corrupt) {
			t.Fatalf("an error of kind %v: %v", fault.KindOf(err), err)
		}
		if err == nil && (got.Revision < 1 || got.Compacted > got.Revision) {
			t.Fatalf("impossible contents %+v", got)
		}
		read := 0
		err = Records(context.Background(), bytes.NewReader(raw), int64(len(raw)), func(r Record) error {
			read += len(r.Value)
			return nil
		})
		if read > len(raw) {
			t.Fatalf("%d bytes of %d were read", read, len(raw))
		}
		if err != nil && !fault.Is(err, fault.Corrupt) {
			t.Fatalf("an error of kind %v: %v", fault.KindOf(err), err)
		}
	})
}
