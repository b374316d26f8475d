package repository

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

type fixture struct {
	*Repository
	config Config
	dir    string
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := Config{URL: "file://" + dir, Key: key, CacheDir: t.TempDir(), Now: time.Now}
	if err := Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	return fixture{reopen(t, config), config, dir}
}

func reopen(t *testing.T, config Config) *Repository {
	t.Helper()
	config.CacheDir = t.TempDir() // nothing may come from a cache
	r, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

func (f fixture) seal(t *testing.T, id string, content []byte) Point {
	t.Helper()
	stored, err := f.Put(t.Context(), "snapshot.db", bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := f.PutTree(t.Context(), []File{{Path: "snapshot.db", Object: stored}})
	if err != nil {
		t.Fatal(err)
	}
	index, err := f.Put(t.Context(), "objects.jsonl", strings.NewReader("{}\n"))
	if err != nil {
		t.Fatal(err)
	}
	point, err := f.Seal(t.Context(), Manifest{
		Version: ManifestVersion, ID: id, Cluster: "prod", Instant: time.Unix(1000, 0).UTC(), Created: time.Unix(1001, 0).UTC(),
		Etcd: &EtcdLayer{Snapshot: Content{Path: "etcd/snapshot.db", Size: stored.Size, SHA256: stored.SHA256}},
	}, []Subtree{{Path: "etcd", Tree: tree}, {Path: "objects.jsonl", File: &index}})
	if err != nil {
		t.Fatal(err)
	}
	return point
}

func randomBytes(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSealAndReadBack(t *testing.T) {
	f := newFixture(t)
	content := randomBytes(t, 5<<20)
	f.seal(t, "prod-1", content)
	again := f.seal(t, "prod-1", content)
	r := reopen(t, f.config)
	points, err := r.Points(t.Context())
	if err != nil || len(points) != 1 || points[0].ID != "prod-1" || points[0].Root != again.Root {
		t.Fatalf("points: %+v, %v", points, err)
	}
	m, err := r.Manifest(t.Context(), points[0])
	if err != nil || m.Etcd == nil || m.Cluster != "prod" {
		t.Fatalf("manifest: %+v, %v", m, err)
	}
	opened, err := r.OpenPath(t.Context(), points[0], "etcd/snapshot.db")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(opened)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("read %d bytes back, %v", len(got), err)
	}
	part := make([]byte, 100)
	if n, err := opened.ReadAt(part, 4_000_000); n != 100 || err != nil || !bytes.Equal(part, content[4_000_000:4_000_100]) {
		t.Fatalf("read at: %d, %v", n, err)
	}
	report, err := r.Verify(t.Context(), points[0], func(int64, int64) {})
	if err != nil || report.Files != 4 || report.Compared != 1 {
		t.Fatalf("verify: %+v, %v", report, err)
	}
	if _, err := r.OpenPath(t.Context(), points[0], "etcd/other"); !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
}

func TestWrongKeyAndMissingRepository(t *testing.T) {
	f := newFixture(t)
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	config := f.config
	config.Key, config.CacheDir = other, t.TempDir()
	if _, err := Open(t.Context(), config); !fault.Is(err, fault.Denied) {
		t.Fatalf("wrong key: %v", err)
	}
	config.URL = "file://" + t.TempDir()
	if _, err := Open(t.Context(), config); !fault.Is(err, fault.NotFound) {
		t.Fatalf("no repository: %v", err)
	}
	if err := Create(t.Context(), f.config); !fault.Is(err, fault.Exists) {
		t.Fatalf("second create: %v", err)
	}
}

func TestForgedManifest(t *testing.T) {
	f := newFixture(t)
	point := f.seal(t, "prod-1", []byte("content"))
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.config.Key.Pin(other.PublicKey()); err != nil { // as if another key had signed it
		t.Fatal(err)
	}
	if _, err := f.Manifest(t.Context(), point); !fault.Is(err, fault.Denied) {
		t.Fatal(err)
	}
}

// packs are the blobs with content, largest first.
func packs(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	var sizes = map[string]int64{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && strings.HasPrefix(filepath.Base(filepath.Dir(filepath.Dir(path))), "p") {
			found = append(found, path)
			sizes[path] = info.Size()
		}
		return err
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	for i := range found {
		if sizes[found[i]] > sizes[found[0]] {
			found[0], found[i] = found[i], found[0]
		}
	}
	return found
}

func TestDamage(t *testing.T) {
	damage := map[string]func(t *testing.T, path string){
		"flipped bit": func(t *testing.T, path string) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			content[len(content)/2] ^= 1
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"truncated": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, info.Size()/2)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"missing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			point := f.seal(t, "prod-1", randomBytes(t, 3<<20))
			harm(t, packs(t, f.dir)[0])
			r := reopen(t, f.config)
			if _, err := r.Verify(t.Context(), point, func(int64, int64) {}); !fault.Is(err, fault.Corrupt) {
				t.Fatalf("verify: %v", err)
			}
			if err := r.ReadThrough(t.Context(), point, func(int64, int64) {}); !fault.Is(err, fault.Corrupt) {
				t.Fatalf("read through: %v", err)
			}
		})
	}
}

func TestTreeRefusesPathsThatLeadOut(t *testing.T) {
	f := newFixture(t)
	stored, err := f.Put(t.Context(), "x", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"../x", "/x", "a/../x", "", "a//b"} {
		if _, err := f.PutTree(t.Context(), []File{{Path: path, Object: stored}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestDeleteLeavesOthersWhole(t *testing.T) {
	f := newFixture(t)
	first := f.seal(t, "prod-1", randomBytes(t, 1<<20))
	second := f.seal(t, "prod-2", randomBytes(t, 1<<20))
	if err := f.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := f.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := reopen(t, f.config)
	if _, err := r.Point(t.Context(), "prod-1"); !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	if _, err := r.Verify(t.Context(), second, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
}

func TestRetention(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	var points []Point
	for hours := range 24 * 40 {
		at := now.Add(-time.Duration(hours) * time.Hour)
		points = append(points, Point{ID: at.Format("01-02T15"), Instant: at})
	}
	kept := func(r plans.Retention) (ids []string) {
		for _, d := range decide(points, nil, r, now) {
			if d.Keep {
				ids = append(ids, d.Point.ID)
			}
		}
		return ids
	}
	for name, test := range map[string]struct {
		retention plans.Retention
		want      string
	}{
		"daily":   {plans.Retention{Daily: 3}, "03-10T12 03-09T23 03-08T23"},
		"latest":  {plans.Retention{Latest: 2}, "03-10T12 03-10T11"},
		"monthly": {plans.Retention{Monthly: 5}, "03-10T12 02-28T23 01-31T23"},
		"age":     {plans.Retention{Daily: 9, MaxAge: plans.Duration(30 * time.Hour)}, "03-10T12 03-09T23"},
		"newest":  {plans.Retention{MaxAge: 1, Latest: 5}, "03-10T12"},
	} {
		if got := strings.Join(kept(test.retention), " "); got != test.want {
			t.Errorf("%s: kept %s, want %s", name, got, test.want)
		}
	}
	if got := len(kept(plans.Retention{})); got != len(points) {
		t.Errorf("no retention kept %d of %d", got, len(points))
	}
}

// TestRetentionOfLogs seals a base each hour, and points with logs alone in between.
func TestRetentionOfLogs(t *testing.T) {
	f := newFixture(t)
	at := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
	logs := func(name string) []DatabaseLogsLayer { return []DatabaseLogsLayer{{Name: name}} }
	for _, m := range []Manifest{
		{ID: "base-1", Databases: []DatabaseLayer{{Name: "erp"}}},
		{ID: "logs-of-another", DatabaseLogs: logs("shop")},
		{ID: "logs-1", DatabaseLogs: logs("erp")},
		{ID: "base-2", Databases: []DatabaseLayer{{Name: "erp"}}, DatabaseLogs: logs("erp")},
		{ID: "logs-2", DatabaseLogs: logs("erp")},
		{ID: "logs-3", DatabaseLogs: logs("erp")},
	} {
		at = at.Add(time.Minute)
		m.Cluster, m.Instant = "prod", at
		if _, err := f.Seal(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	var kept []string
	decisions, err := f.Retain(t.Context(), "prod", plans.Retention{Latest: 2}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range decisions {
		if d.Keep {
			kept = append(kept, d.Point.ID)
		}
	}
	points, err := f.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(kept, " "), "logs-3 base-2 logs-of-another base-1"; got != want || len(points) != 4 {
		t.Errorf("kept %s, want %s; %d points are left", got, want, len(points))
	}
}

func TestKeyFile(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "muster.key")
	if err := key.WriteFile(path, nil); err != nil {
		t.Fatal(err)
	}
	if err := key.WriteFile(path, nil); !fault.Is(err, fault.Exists) {
		t.Fatalf("overwritten: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	read, err := ReadKey(path, nil)
	if err != nil || read.password != key.password || read.PublicKey() != key.PublicKey() {
		t.Fatalf("read back: %v", err)
	}
	if err := os.WriteFile(path, []byte("password: [hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path, nil); !fault.Is(err, fault.Corrupt) || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("damaged key file: %v", err)
	}
}

// TestFullDisk writes to a filesystem that has less room than the reserve.
func TestFullDisk(t *testing.T) {
	f := newFixture(t)
	point := f.seal(t, "prod-1", []byte("content"))
	for _, c := range []struct {
		free uint64 // bytes
		full bool
	}{{reserve - 1, true}, {reserve, false}} {
		r := roomOf(f.config.URL)
		r.free = func() (uint64, error) { return c.free, nil }
		f.room = r
		_, err := f.Put(t.Context(), "x", bytes.NewReader(randomBytes(t, 1<<20)))
		if fault.Is(err, fault.NoSpace) != c.full {
			t.Errorf("%d bytes free: %v", c.free, err)
		}
	}
	if err := f.Delete(t.Context(), point); err != nil {
		t.Errorf("a full disk keeps recovery points from being deleted: %v", err)
	}
}
