package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/repository"
)

func TestManifestTellsWhatWasHeldStill(t *testing.T) {
	m := repository.Manifest{Volumes: []repository.VolumeLayer{{
		ID: "vol-1", Provider: "ceph", Storage: "disks", Size: 1 << 30, Consistency: repository.ApplicationConsistent, Mode: repository.VolumeSnapshot,
		Quiesced: []string{"shop/cart-0"}, QuiescedDatabases: []repository.QuiescedDatabase{{Name: "shop/ledger"}},
	}}}
	var out bytes.Buffer
	if err := printManifest(&out, m); err != nil {
		t.Fatal(err)
	}
	if want := "in the backend's snapshot alone, held still: shop/cart-0, database shop/ledger\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%q is not in\n%s", want, out.String())
	}
}

func TestBreakGlassNamesDatabases(t *testing.T) {
	m := repository.Manifest{ID: "prod-1", Cluster: "prod", Databases: []repository.DatabaseLayer{
		{Name: "shop/ledger", Engine: "postgresql", Server: "15.8'; reboot\nreboot", Mode: "logical", Path: "databases/shop/ledger"},
	}}
	var out bytes.Buffer
	err := printBreakGlass(&out, m, repository.Point{Root: "k1"}, &plans.Repository{Spec: plans.RepositorySpec{URL: "file:///srv/backup", KeyFile: "muster.key"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "reboot") {
			t.Error("what a server said became a command")
		}
	}
	if want := "# shop/ledger: postgresql 15.8'; reboot reboot, logical, in ./point/databases/shop/ledger\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%q is not in\n%s", want, out.String())
	}
}

func TestManifestTellsOfDatabases(t *testing.T) {
	taken := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	size := func(n int64) repository.Content { return repository.Content{Size: n} }
	digests := size(7)
	m := repository.Manifest{ID: "prod-1", Cluster: "prod", Instant: taken,
		Databases: []repository.DatabaseLayer{
			{Name: "shop/ledger", Engine: "postgresql", Server: "15.8", Mode: "logical", PointInTime: true, Taken: taken, Tables: 12, Digests: &digests,
				Parts: []repository.DatabasePart{{Content: size(1 << 20)}, {Content: size(1 << 20)}}},
			{Name: "cache", Engine: "own", Server: "1", Mode: "plain", Taken: taken, Parts: []repository.DatabasePart{{Content: size(5)}}},
		},
		DatabaseLogs: []repository.DatabaseLogsLayer{
			{Name: "shop/ledger", Taken: taken, Logs: []repository.DatabaseLog{
				{Content: size(1 << 20), From: "01", To: "02"}, {Content: size(1 << 20), From: "02", To: "03"}, {Content: size(10)},
			}},
			{Name: "cache", Taken: taken},
		},
	}
	var out bytes.Buffer
	if err := printManifest(&out, m); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"  database shop/ledger: postgresql 15.8, logical at 2026-01-02T03:04:05Z (one instant), 2 parts, 2.0 MiB, digests of 12 tables\n",
		"  database cache: own 1, plain at 2026-01-02T03:04:05Z (no single instant), 1 parts, 5 B, without digests\n",
		"  logs of database shop/ledger: 3 files, 2.0 MiB, from 01 to 03, complete at 2026-01-02T03:04:05Z\n",
		"  logs of database cache: 0 files, 0 B, no stretch of the log, complete at 2026-01-02T03:04:05Z\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
