package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/mariadb"
	"github.com/musterdr/muster/testenv/postgres"
)

// Both servers hold the accounts of pgbench at this scale: 100,000 each.
const (
	bankScale    = 100
	bankAccounts = bankScale * 100_000
)

const bankHow = "A %s server on this machine with 10 million accounts, as pgbench makes them at scale 100. Ours is what backup-databases does in this mode, without digests: " +
	"into an empty repository (encrypted, compressed, flushed). %s MB are those of the server's own files."

func postgresLogical() benchmark {
	return benchmark{
		name: "postgres-logical", unit: "MB/s", against: "pg_dump -Fd -j2, then stock kopia", runs: 3, warm: true,
		how: fmt.Sprintf(bankHow, "PostgreSQL", "The reference is pg_dumpall of the globals and pg_dump -Fd -j2 without compression into a folder, of which the stock kopia command makes a snapshot with the same compression."),
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			return preparePostgres(ctx, on, "logical", `mkdir "$DIR/dump"
pg_dumpall --globals-only >"$DIR/dump/globals.sql"
pg_dump -Fd -j2 -Z0 -f "$DIR/dump/postgres" postgres
"$KOPIA" snapshot create "$DIR/dump"`)
		},
	}
}

func postgresPhysical() benchmark {
	return benchmark{
		name: "postgres-physical", unit: "MB/s", against: "pg_basebackup piped into stock kopia", runs: 3, warm: true,
		how: fmt.Sprintf(bankHow, "PostgreSQL", "The reference pipes pg_basebackup -Ft -X fetch into the stock kopia command with the same compression."),
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			return preparePostgres(ctx, on, "physical", `pg_basebackup -D - -Ft -X fetch -c fast | "$KOPIA" snapshot create --stdin-file base.tar "$DIR"`)
		},
	}
}

func mariadbLogical() benchmark {
	return benchmark{
		name: "mariadb-logical", unit: "MB/s", against: "mariadb-dump piped into stock kopia", runs: 3, warm: true,
		how: fmt.Sprintf(bankHow, "MariaDB", "The reference pipes mariadb-dump --single-transaction --all-databases into the stock kopia command with the same compression."),
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			return prepareMariaDB(ctx, on, "logical", `mariadb-dump --defaults-extra-file="$CLIENT" --single-transaction --master-data=2 --routines --events --triggers --all-databases | "$KOPIA" snapshot create --stdin-file dump.sql "$DIR"`)
		},
	}
}

func mariadbPhysical() benchmark {
	return benchmark{
		name: "mariadb-physical", unit: "MB/s", against: "mariadb-backup piped into stock kopia", runs: 3, warm: true,
		how: fmt.Sprintf(bankHow, "MariaDB", "The reference pipes mariadb-backup --stream=mbstream into the stock kopia command with the same compression."),
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			return prepareMariaDB(ctx, on, "physical", `mariadb-backup --defaults-extra-file="$CLIENT" --backup --stream=mbstream --target-dir="$DIR/target" | "$KOPIA" snapshot create --stdin-file base.mbstream "$DIR"`)
		},
	}
}

// databaseBench is a filled server.
type databaseBench struct {
	on          *stage
	entry       plans.Database
	mode        string
	password    string
	environment string // of the reference's script, in sh
	script      string
	kopia       string
	change      func(ctx context.Context, above, upTo int64) error // accounts

	bytes int64 // the server's
	first int64 // account of the next change
	grown int64 // bytes of blobs that a second backup added after a change
	whole int64 // and those of the first
}

func (b *databaseBench) sides(ctx context.Context) (sides, error) {
	var err error
	b.kopia, err = testenv.StockKopia(ctx)
	b.entry.Name, b.entry.Secrets = "bench", map[string]plans.DatabaseSecret{"password": {Env: "X"}}
	return sides{ours: b.ours, reference: b.reference, notes: b.notes}, err
}

func preparePostgres(ctx context.Context, on *stage, mode, script string) (sides, error) {
	if err := postgres.Install(ctx); err != nil {
		return sides{}, err
	}
	dir, err := os.MkdirTemp("", "muster-bench-postgres") // its owner must reach it
	if err != nil {
		return sides{}, err
	}
	server, err := postgres.New(dir)
	if err != nil {
		return sides{}, err
	}
	on.after(func(context.Context) error { return server.Close() })
	if err := server.Init(ctx, "max_wal_size = 4GB"); err != nil {
		return sides{}, err
	}
	if err := server.Start(ctx); err != nil {
		return sides{}, err
	}
	if _, err := server.Run(ctx, filepath.Join(postgres.Programs, "pgbench"), "-i", "-q", "-s", strconv.Itoa(bankScale), "postgres"); err != nil {
		return sides{}, err
	}
	size, err := server.SQL(ctx, "postgres", "select pg_database_size('postgres')")
	if err != nil {
		return sides{}, err
	}
	b := &databaseBench{
		on: on, mode: mode, script: script, password: postgres.Password,
		entry:       plans.Database{Engine: "postgresql", Settings: map[string]string{"host": server.Socket}},
		environment: fmt.Sprintf("export PATH=%s:$PATH PGHOST=%s PGUSER=postgres PGPASSWORD=%s", postgres.Programs, server.Socket, postgres.Password),
		change: func(ctx context.Context, above, upTo int64) error {
			_, err := server.SQL(ctx, "postgres", fmt.Sprintf("update pgbench_accounts set abalance = abalance + 1 where aid > %d and aid <= %d", above, upTo))
			return err
		},
	}
	if b.bytes, err = strconv.ParseInt(size, 10, 64); err != nil {
		return sides{}, err
	}
	return b.sides(ctx)
}

func prepareMariaDB(ctx context.Context, on *stage, mode, script string) (sides, error) {
	if err := mariadb.Install(ctx); err != nil {
		return sides{}, err
	}
	dir, err := os.MkdirTemp("", "muster-bench-mariadb") // its owner must reach it
	if err != nil {
		return sides{}, err
	}
	server, err := mariadb.New(dir, "--log-bin=log", "--innodb-buffer-pool-size=256M")
	if err != nil {
		return sides{}, err
	}
	on.after(func(context.Context) error { return server.Close() })
	if err := server.Init(ctx); err != nil {
		return sides{}, err
	}
	if err := server.Start(ctx); err != nil {
		return sides{}, err
	}
	fill := fmt.Sprintf(`create database bench; use bench; create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84));
		insert into pgbench_accounts select seq, (seq - 1) div 100000 + 1, 0, '' from seq_1_to_%d`, bankAccounts)
	if _, err := server.SQL(ctx, "", fill); err != nil {
		return sides{}, err
	}
	size, err := server.SQL(ctx, "", "select sum(file_size) from information_schema.innodb_sys_tablespaces")
	if err != nil {
		return sides{}, err
	}
	b := &databaseBench{
		on: on, mode: mode, script: script, password: mariadb.Password,
		entry:       plans.Database{Engine: "mariadb", Settings: map[string]string{"socket": server.Socket(), "data": server.Data()}},
		environment: "export CLIENT=" + server.ClientFile(),
		change: func(ctx context.Context, above, upTo int64) error {
			_, err := server.SQL(ctx, "bench", fmt.Sprintf("update pgbench_accounts set abalance = abalance + 1 where aid > %d and aid <= %d", above, upTo))
			return err
		},
	}
	if b.bytes, err = strconv.ParseInt(strings.TrimSpace(size), 10, 64); err != nil {
		return sides{}, err
	}
	return b.sides(ctx)
}

func (b *databaseBench) backup(ctx context.Context, v *vault) error {
	engine, err := database.Find(b.entry.Engine, nil)
	if err != nil {
		return err
	}
	server, err := database.NewServer(database.ServerConfig{
		Database: b.entry, Engine: engine, Place: shell.Runner{}, Secrets: map[string]string{"password": b.password}, Mask: secret.NewMask(b.password), Token: "bench",
	})
	if err != nil {
		return err
	}
	if _, err := server.Backup(ctx, database.BackupConfig{Mode: b.mode, Store: v, Progress: silence{}, Now: time.Now}); err != nil {
		return err
	}
	return v.Flush(ctx)
}

// ours measures a first backup, and then looks at what a second one adds.
func (b *databaseBench) ours(ctx context.Context) (rate float64, err error) {
	v, err := newVault(ctx, b.on)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	began := time.Now()
	if err := b.backup(ctx, v); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return perSecond(b.bytes, took), b.second(ctx, v)
}

// second changes one account in a hundred, which lie side by side, and captures again.
func (b *databaseBench) second(ctx context.Context, v *vault) (err error) {
	if b.whole, err = v.bytes(); err != nil {
		return err
	}
	if err := b.change(ctx, b.first, b.first+bankAccounts/100); err != nil {
		return err
	}
	b.first += bankAccounts / 100
	if err := b.backup(ctx, v); err != nil {
		return err
	}
	now, err := v.bytes()
	b.grown = now - b.whole
	return err
}

func (b *databaseBench) reference(ctx context.Context) (float64, error) {
	dir := b.on.fresh("stock")
	if err := run(exec.CommandContext(ctx, "bash", "-euc", stockScript(b.kopia, dir, stockCreate))); err != nil {
		return 0, err
	}
	c := exec.CommandContext(ctx, "bash", "-euc", b.environment+"\n"+stockScript(b.kopia, dir, b.script))
	began := time.Now()
	if err := run(c); err != nil {
		return 0, err
	}
	return perSecond(b.bytes, time.Since(began)), os.RemoveAll(dir)
}

func (b *databaseBench) notes() []string {
	return []string{fmt.Sprintf("The server's files have %s MB, and the repository %s MB after the first backup. After a change of one account in a hundred, side by side, a second backup added %s MB.",
		figure(float64(b.bytes)/1e6), figure(float64(b.whole)/1e6), figure(float64(b.grown)/1e6))}
}
