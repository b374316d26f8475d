package database_test

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/postgres"
)

const accounts = 10000

// transfers moves money between accounts, each transfer with a number that is logged in the same transaction.
type transfers struct {
	server *postgres.Server

	mu      sync.Mutex
	changed *sync.Cond
	done    int // acknowledged
	err     error
	ending  bool
	ended   sync.WaitGroup
}

func startTransfers(t *testing.T, s *postgres.Server) *transfers {
	t.Helper()
	sql(t, s, "postgres", fmt.Sprintf(`create table account (id int primary key, balance bigint not null); insert into account select i, 1000 from generate_series(1, %d) i;
		create table transfer (n int primary key, at timestamptz not null default clock_timestamp());`, accounts))
	w := &transfers{server: s}
	w.changed = sync.NewCond(&w.mu)
	w.ended.Go(func() {
		for n := 1; ; n++ {
			_, err := s.SQL(t.Context(), "postgres", fmt.Sprintf(`begin; update account set balance = balance - 7 where id = %d; update account set balance = balance + 7 where id = %d;
				insert into transfer (n) values (%d); commit`, n*31%accounts+1, n*17%accounts+1, n))
			w.mu.Lock()
			if err == nil {
				w.done = n
			}
			w.err = err
			over := w.ending || err != nil
			w.changed.Broadcast()
			w.mu.Unlock()
			if over {
				return
			}
		}
	})
	return w
}

// past waits until n more transfers are acknowledged, and returns the number of the last.
func (w *transfers) past(t *testing.T, n int) int {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for want := w.done + n; w.done < want && w.err == nil; {
		w.changed.Wait()
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.done
}

func (w *transfers) stop(t *testing.T) int {
	t.Helper()
	w.mu.Lock()
	w.ending = true
	w.mu.Unlock()
	w.ended.Wait()
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.done
}

// restored expects every transfer up to `least`, none after `most`, none missing between, and no money lost. It
// returns the last.
func restored(t *testing.T, s *postgres.Server, least, most int) int {
	t.Helper()
	if sum := sql(t, s, "postgres", "select sum(balance) from account"); sum != strconv.Itoa(accounts*1000) {
		t.Errorf("the accounts hold %s", sum)
	}
	count, last, _ := strings.Cut(sql(t, s, "postgres", "select count(*), coalesce(max(n), 0) from transfer"), "|")
	n, err := strconv.Atoi(last)
	if err != nil {
		t.Fatal(err)
	}
	if count != last {
		t.Errorf("%s transfers up to number %s", count, last)
	}
	if n < least || n > most {
		t.Errorf("the last transfer is %d, want %d to %d", n, least, most)
	}
	return n
}

// archived is what a plan's passes have made of a server's log.
type archived struct {
	logs []database.Log
	by   map[string]repository.ID
}

// pass archives once, with everything before sealed.
func (a *archived) pass(t *testing.T, server *database.Server, store *repository.Repository) {
	t.Helper()
	sealed := ""
	for _, log := range a.logs {
		sealed = max(sealed, log.To)
	}
	more, err := server.ArchiveLogs(t.Context(), database.ArchiveConfig{Sealed: sealed, Store: store, Progress: progress{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range more {
		if _, known := a.by[log.Name]; !known {
			a.logs = append(a.logs, log.Log)
		}
		a.by[log.Name] = log.Object.ID
	}
}

func TestPostgreSQLPointInTime(t *testing.T) {
	source := postgres.Need(t, "max_wal_size = 128MB")
	server, store := postgresServer(t, source, nil), newRepository(t)
	logs := &archived{by: map[string]repository.ID{}}
	logs.pass(t, server, store) // from now on the server keeps its log
	writing := startTransfers(t, source)
	before := writing.past(t, 20)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Mode: "physical", Store: store, Progress: progress{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	after := writing.past(t, 1)
	logs.pass(t, server, store)
	writing.past(t, 20)

	type target struct {
		until       database.Until
		least, most int
	}
	targets := map[string]target{}
	mark := func(name string, statement string, until func(string) database.Until) {
		at := writing.past(t, 5)
		out := sql(t, source, "postgres", statement)
		targets[name] = target{until(out), at, writing.past(t, 2)}
	}
	mark("time", "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')", func(s string) database.Until { return database.Until{Time: s} })
	logs.pass(t, server, store)
	mark("lsn", "select pg_current_wal_insert_lsn()", func(s string) database.Until { return database.Until{LSN: s} })
	mark("name", "select pg_create_restore_point('before the release')", func(string) database.Until { return database.Until{Name: "before the release"} })
	last := writing.stop(t)
	logs.pass(t, server, store)
	targets["end"] = target{database.Until{End: true}, last, last}

	if before, after, gap := database.Gap(backup.Facts["from"], logs.logs); gap {
		t.Fatalf("a gap between %s and %s", before, after)
	}
	t.Run("base", func(t *testing.T) {
		into := postgresRestore(t, store, backup, nil, database.Until{})
		restored(t, into, before, after)
	})
	for name, want := range targets {
		t.Run(name, func(t *testing.T) {
			into := postgresRestore(t, store, backup, logs, want.until)
			n := restored(t, into, want.least, want.most)
			if want.until.Time != "" {
				passed := sql(t, source, "postgres", fmt.Sprintf("select max(n) from transfer where at <= '%s'", want.until.Time))
				if n < atoi(t, passed)-1 || n > atoi(t, passed) { // a transfer is logged a moment before it commits
					t.Errorf("up to transfer %d, and %s were logged before the target", n, passed)
				}
			}
		})
	}
	t.Run("never", func(t *testing.T) {
		_, err := restorePostgres(t, store, backup, logs, database.Until{Name: "no such point"})
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("a target that never comes: %v", err)
		}
	})
}

func atoi(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func postgresRestore(t *testing.T, store *repository.Repository, backup database.Backup, logs *archived, until database.Until) *postgres.Server {
	t.Helper()
	into, err := restorePostgres(t, store, backup, logs, until)
	if err != nil {
		t.Fatal(err)
	}
	if err := into.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return into
}

// restorePostgres fills the data folder of a new server.
func restorePostgres(t *testing.T, store *repository.Repository, backup database.Backup, logs *archived, until database.Until) (*postgres.Server, error) {
	t.Helper()
	into := postgres.Blank(t)
	server := postgresServer(t, into, map[string]string{"data": into.Data()})
	config := restoreOf(store, backup)
	config.Until = until
	if logs != nil {
		config.Logs = logs.logs
		config.OpenLog = func(ctx context.Context, log database.Log) (io.ReadCloser, error) {
			return store.Open(ctx, logs.by[log.Name])
		}
	}
	return into, server.Restore(t.Context(), config)
}
