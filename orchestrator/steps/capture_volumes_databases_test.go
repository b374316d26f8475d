package steps

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/mariadb"
	"github.com/musterdr/muster/testenv/postgres"
)

// watchedBackend calls before it takes snapshots, and before it reads one.
type watchedBackend struct {
	providers.Provider
	snapshot, read func()
}

func (w watchedBackend) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	w.snapshot()
	return w.Provider.Snapshot(ctx, request)
}

func (w watchedBackend) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	w.read()
	return w.Provider.Read(ctx, request, each)
}

// till is an application of two databases with a writer each, and two volumes at two backends.
type till struct {
	*volumeSite
	maria    *mariadb.Server
	postgres *postgres.Server
}

func newTill(t *testing.T) *till {
	t.Helper()
	s := &till{newVolumeSite(t, "volumes-databases", "fast", "slow"), mariadb.Need(t), postgres.Need(t)}
	entry := func(name, engine, setting, value, password string) {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		s.databases += fmt.Sprintf("    - {name: %s, engine: %s, settings: {%s: %s}, secrets: {password: {file: %s}}}\n", name, engine, setting, value, file)
	}
	s.databases = "  databases:\n"
	entry("shop/till", "mariadb", "socket", s.maria.Socket(), mariadb.Password)
	entry("shop/ledger", "postgresql", "host", s.postgres.Socket, postgres.Password)
	s.claim(t, "fast", "a", noise(1, mebi), nil)
	s.claim(t, "slow", "b", noise(2, mebi), nil)
	postgres.StartTransfers(t, s.postgres)
	s.sell(t)
	return s
}

// sell writes to MariaDB until the test ends.
func (s *till) sell(t *testing.T) {
	t.Helper()
	if _, err := s.maria.SQL(t.Context(), "", "create database till; create table till.sale (n int primary key)"); err != nil {
		t.Fatal(err)
	}
	client, err := s.maria.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ending := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-ending:
				ended <- client.Close()
				return
			default:
			}
			if _, err := client.Ask(fmt.Sprintf("insert into till.sale values (%d); select 'done';", n)); err != nil {
				ended <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(ending)
		<-ended // the test's context has ended the connection, too
	})
}

// ask gives the numbers that both servers answer.
func (s *till) ask(t *testing.T, maria, postgres string) []int {
	t.Helper()
	one, err := s.maria.SQL(t.Context(), "", maria)
	if err != nil {
		t.Error(err)
	}
	other, err := s.postgres.SQL(t.Context(), "postgres", postgres)
	if err != nil {
		t.Error(err)
	}
	var numbers []int
	for _, text := range []string{one, other} {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			t.Error(err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

func (s *till) committed(t *testing.T) []int {
	t.Helper()
	return s.ask(t, "select count(*) from till.sale", "select count(*) from transfer")
}

func (s *till) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) || t.Failed() {
			t.Error("in vain: " + what)
			return
		}
	}
}

func (s *till) writersWait(t *testing.T) {
	t.Helper()
	s.until(t, "both writers wait", func() bool {
		return slices.Equal([]int{1, 1}, s.ask(t, "select count(*) from information_schema.processlist where state like '%backup lock%'",
			"select count(*) from pg_stat_activity where wait_event_type = 'Lock'"))
	})
}

func (s *till) writersGoOn(t *testing.T) {
	t.Helper()
	before := s.committed(t)
	s.until(t, "both writers go on", func() bool {
		now := s.committed(t)
		return now[0] > before[0]+2 && now[1] > before[1]+2
	})
}

// watch has every backend call.
func (s *till) watch(t *testing.T, snapshot, read func()) {
	t.Helper()
	for name := range s.backends {
		delete(s.provided, name)
		s.provided[name] = watchedBackend{s.of(t, name), snapshot, read}
	}
}

const tillSteps = `
    - {id: volumes, uses: capture-volumes, retry: {attempts: 1}, with: {namespaces: [volumes-databases], groupBy: GROUP, quiesce: {databases: ["shop/*"], within: WITHIN}}}
    - {id: seal, uses: seal-recovery-point, needs: [volumes]}
`

// TestDatabasesWaitForSnapshots: no writer of two databases goes on between the snapshots at two backends, and both
// do before content is read.
func TestDatabasesWaitForSnapshots(t *testing.T) {
	s := newTill(t)
	steps := func(group, within string) string {
		return strings.NewReplacer("GROUP", group, "WITHIN", within).Replace(tillSteps)
	}
	var counts [][]int
	s.watch(t, func() {
		s.writersWait(t)
		counts = append(counts, s.committed(t))
	}, func() { s.writersGoOn(t) })
	s.run(t, plans.Capture, steps("all", "1m"))
	if len(counts) != 2 || !slices.Equal(counts[0], counts[1]) {
		t.Errorf("writers had committed %v at the snapshots", counts)
	}
	layers := s.manifest(t).Volumes
	if len(layers) != 2 {
		t.Fatalf("%d volumes were captured", len(layers))
	}
	apart := layers[0].Instant.Sub(layers[1].Instant).Abs()
	for _, layer := range layers {
		if layer.Group != "all" || apart == 0 || layer.SkewSeconds != apart.Seconds() || len(layer.QuiescedDatabases) != 2 {
			t.Errorf("%s: %+v", apart, layer)
			continue
		}
		one, other := layer.QuiescedDatabases[0], layer.QuiescedDatabases[1]
		if one.Name != "shop/till" || one.Engine != "mariadb" || one.Facts["gtid"] == "" || one.Facts["heldSeconds"] == "" ||
			other.Name != "shop/ledger" || other.Facts["lsn"] == "" || other.Facts["heldSeconds"] == "" {
			t.Errorf("%+v", layer.QuiescedDatabases)
		}
		t.Log(layer.SkewSeconds, layer.QuiescedDatabases)
	}
	before := len(s.snapshots(t))

	// The time is over before the last snapshot.
	s.watch(t, func() { s.writersGoOn(t) }, func() {})
	_, err := s.start(t, plans.Capture, steps("all", "5s"))
	wantFault(t, err, fault.Busy, "writers were let go after 5 s")
	if after := len(s.snapshots(t)); after != before {
		t.Errorf("%d snapshots before, %d after a hold that was too short", before, after)
	}

	// Where the plan allows that, the volumes are captured, and called no more than they are.
	s.run(t, plans.Capture, strings.Replace(steps("all", "5s"), "quiesce: {", "quiesce: {optional: true, ", 1))
	for _, layer := range s.manifest(t).Volumes {
		if layer.QuiescedDatabases != nil || layer.Consistency != repository.CrashConsistent {
			t.Errorf("%+v", layer)
		}
	}

	// Of several groups each would have an instant of its own.
	_, err = s.start(t, plans.Capture, steps("volume", "1m"))
	wantFault(t, err, fault.Invalid, "group by all")
	_, err = s.start(t, plans.Capture, strings.Replace(steps("all", "1m"), "shop/*", "other/*", 1))
	wantFault(t, err, fault.NotFound, "lists no such database")
	s.writersGoOn(t)
}
