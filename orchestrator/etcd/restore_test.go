package etcd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterdr/muster/orchestrator/etcd/etcdtest"
	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/providers/fault"
)

// take fills a cluster of three, keeps its snapshot in a file, and lets it go on after.
func take(t *testing.T) (path string, at int64, want map[string]string) {
	t.Helper()
	c := etcdtest.New(t, 3).Start(t)
	client := c.Client(t)
	etcdtest.Fill(t, client, "/registry/a/", 100, 200)
	if _, err := client.Delete(t.Context(), "/registry/a/00007"); err != nil {
		t.Fatal(err)
	}
	want = list(t, client)
	var raw bytes.Buffer
	if _, err := Snapshot(t.Context(), accessTo(c), c.Endpoint(1), &raw); err != nil {
		t.Fatal(err)
	}
	etcdtest.Fill(t, client, "/registry/after/", 30, 10)
	path = filepath.Join(t.TempDir(), "snapshot.db")
	if err := os.WriteFile(path, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	at, err := pages.Revision(bytes.NewReader(raw.Bytes()), int64(raw.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Members {
		c.Stop(i)
	}
	return path, at, want
}

// list returns key → value, version and create revision of everything.
func list(t *testing.T, client *clientv3.Client) map[string]string {
	t.Helper()
	response, err := client.Get(t.Context(), "/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range response.Kvs {
		out[string(kv.Key)] = fmt.Sprint(string(kv.Value), kv.Version, kv.CreateRevision, kv.ModRevision)
	}
	return out
}

func TestRestoredClusterHoldsSnapshotAndOnlyGrows(t *testing.T) {
	path, at, want := take(t)
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d members", size), func(t *testing.T) {
			c := etcdtest.New(t, size)
			for _, config := range c.Configs {
				restore := RestoreConfig{
					Snapshot: path, DataDir: config.Dir, Name: config.Name, Peers: peersOf(c),
					Token: "muster-" + config.InitialClusterToken, Bump: Bump(200),
				}
				if err := Restore(t.Context(), restore); err != nil {
					t.Fatal(err)
				}
			}
			c.Start(t)
			checkRestored(t, c, at, want)
		})
	}
}

func checkRestored(t *testing.T, c *etcdtest.Cluster, at int64, want map[string]string) {
	t.Helper()
	state, err := Inspect(t.Context(), accessTo(c))
	if err != nil {
		t.Fatal(err)
	}
	if state.Revision != at+leastBump || len(state.Members) != len(c.Configs) {
		t.Errorf("revision %d with %d members, want %d with %d", state.Revision, len(state.Members), at+leastBump, len(c.Configs))
	}
	client := c.Client(t)
	if got := list(t, client); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the content differs: %d keys, want %d", len(got), len(want))
	}
	// A client of the old cluster goes on where it was: it is told to list again, and what it sees
	// then is newer than all that it knew.
	old := <-client.Watch(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithRev(at+1))
	if err := old.Err(); !errors.Is(err, rpctypes.ErrCompacted) || old.CompactRevision <= at {
		t.Errorf("an old watch gets %v, compact revision %d", err, old.CompactRevision)
	}
	watch := client.Watch(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithRev(old.CompactRevision))
	etcdtest.Fill(t, client, "/registry/new/", 3, 10)
	for last := at + leastBump; last < at+leastBump+3; {
		for _, event := range (<-watch).Events {
			if event.Kv.ModRevision <= last {
				t.Fatalf("a watch sees revision %d after %d", event.Kv.ModRevision, last)
			}
			last = event.Kv.ModRevision
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	database := emptyDatabase(t)
	whole := sealed(database)
	tampered := bytes.Clone(whole)
	tampered[len(tampered)-100] ^= 1
	zeroed := bytes.Clone(database)
	clear(zeroed[3*4096:])
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	good := RestoreConfig{
		Snapshot: write("whole.db", whole), DataDir: filepath.Join(dir, "new"), Name: "cp-0",
		Peers: []Peer{{"cp-0", "https://10.0.0.1:2380"}}, Token: "token", Bump: leastBump,
	}
	tests := []struct {
		name   string
		change func(c *RestoreConfig)
		kind   fault.Kind
		text   string
	}{
		{"data directory not empty", func(c *RestoreConfig) { c.DataDir = full }, fault.Exists, "is not empty"},
		{"wrong hash", func(c *RestoreConfig) { c.Snapshot = write("tampered.db", tampered) }, fault.Corrupt, "expected sha256"},
		{"no hash", func(c *RestoreConfig) { c.Snapshot = write("bare.db", database) }, fault.Corrupt, "missing hash"},
		{"right hash of nonsense", func(c *RestoreConfig) { c.Snapshot = write("zeroed.db", sealed(zeroed)) }, fault.Corrupt, "etcd snapshot"},
		{"no file", func(c *RestoreConfig) { c.Snapshot = filepath.Join(dir, "none") }, fault.NotFound, "none"},
		{"stranger", func(c *RestoreConfig) { c.Name = "cp-9" }, fault.Invalid, "cp-9"},
		{"no bump", func(c *RestoreConfig) { c.Bump = 0 }, fault.Invalid, "a bump"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config := good
			config.DataDir = filepath.Join(t.TempDir(), "new")
			tt.change(&config)
			err := Restore(t.Context(), config)
			wantFault(t, err, tt.kind, tt.text)
		})
	}
	if err := Restore(t.Context(), good); err != nil {
		t.Fatalf("the unchanged case must work: %v", err)
	}
}

// emptyDatabase is what a member has that was never written to.
func emptyDatabase(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"alarm", "cluster", "key", "lease", "members", "meta"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBump(t *testing.T) {
	tests := map[uint64]uint64{0: 1_000_000_000, 800_000_000: 1_000_000_000, 1_000_000_000: 1_200_000_000, 1<<64 - 1: 1 << 60}
	for index, want := range tests {
		if got := Bump(index); got != want {
			t.Errorf("raft index %d: bump %d, want %d", index, got, want)
		}
	}
}
