package database_test

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/postgres"
)

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
	writing := postgres.StartTransfers(t, source)
	before := writing.Past(t, 20)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Mode: "physical", Store: store, Progress: progress{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	after := writing.Past(t, 1)
	logs.pass(t, server, store)
	writing.Past(t, 20)

	type target struct {
		until       database.Until
		least, most int
	}
	targets := map[string]target{}
	mark := func(name string, statement string, until func(string) database.Until) {
		at := writing.Past(t, 5)
		out := sql(t, source, "postgres", statement)
		targets[name] = target{until(out), at, writing.Past(t, 2)}
	}
	mark("time", "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')", func(s string) database.Until { return database.Until{Time: s} })
	logs.pass(t, server, store)
	mark("lsn", "select pg_current_wal_insert_lsn()", func(s string) database.Until { return database.Until{LSN: s} })
	mark("name", "select pg_create_restore_point('before the release')", func(string) database.Until { return database.Until{Name: "before the release"} })
	last := writing.Stop(t)
	logs.pass(t, server, store)
	targets["end"] = target{database.Until{End: true}, last, last}

	if before, after, gap := database.Gap(backup.Facts["from"], logs.logs); gap {
		t.Fatalf("a gap between %s and %s", before, after)
	}
	t.Run("base", func(t *testing.T) {
		into := postgresRestore(t, store, backup, nil, database.Until{})
		postgres.Restored(t, into, before, after)
	})
	for name, want := range targets {
		t.Run(name, func(t *testing.T) {
			into := postgresRestore(t, store, backup, logs, want.until)
			n := postgres.Restored(t, into, want.least, want.most)
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
