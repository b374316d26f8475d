package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/postgres"
)

// postgresScale is pgbench's: 100,000 accounts each, some 15 MB.
const postgresScale = 30

const postgresHow = "A PostgreSQL server on this machine with pgbench's tables at scale 30, 3 million accounts. Ours is what backup-databases does in this mode, without digests: " +
	"into an empty repository (encrypted, compressed, flushed). "

func postgresLogical() benchmark {
	return benchmark{
		name: "postgres-logical", unit: "MB/s", against: "pg_dump -Fd -j2, then stock kopia", runs: 3, warm: true,
		how: postgresHow + "The reference is pg_dumpall of the globals and pg_dump -Fd -j2 without compression into a folder, of which the stock kopia command makes a snapshot with the same compression. MB are those of the server's database.",
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
		how: postgresHow + "The reference pipes pg_basebackup -Ft -X fetch into the stock kopia command with the same compression. MB are those of the server's database.",
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			return preparePostgres(ctx, on, "physical", `pg_basebackup -D - -Ft -X fetch -c fast | "$KOPIA" snapshot create --stdin-file base.tar "$DIR"`)
		},
	}
}

// postgresBench is a filled server.
type postgresBench struct {
	on     *stage
	mode   string
	server *postgres.Server
	kopia  string
	script string
	bytes  int64
	first  int64 // account of the next change
	grown  int64 // bytes of blobs that a second backup added after a change
	whole  int64 // and those of the first
}

func preparePostgres(ctx context.Context, on *stage, mode, script string) (sides, error) {
	b := &postgresBench{on: on, mode: mode, script: script}
	if err := postgres.Install(ctx); err != nil {
		return sides{}, err
	}
	var err error
	if b.kopia, err = testenv.StockKopia(ctx); err != nil {
		return sides{}, err
	}
	dir, err := os.MkdirTemp("", "muster-bench-postgres") // its owner must reach it
	if err != nil {
		return sides{}, err
	}
	if b.server, err = postgres.New(dir); err != nil {
		return sides{}, err
	}
	on.after(func(context.Context) error { return b.server.Close() })
	if err := b.server.Init(ctx, "max_wal_size = 4GB"); err != nil {
		return sides{}, err
	}
	if err := b.server.Start(ctx); err != nil {
		return sides{}, err
	}
	if _, err := b.server.Run(ctx, filepath.Join(postgres.Programs, "pgbench"), "-i", "-q", "-s", strconv.Itoa(postgresScale), "postgres"); err != nil {
		return sides{}, err
	}
	size, err := b.server.SQL(ctx, "postgres", "select pg_database_size('postgres')")
	if err != nil {
		return sides{}, err
	}
	if b.bytes, err = strconv.ParseInt(size, 10, 64); err != nil {
		return sides{}, err
	}
	return sides{ours: b.ours, reference: b.reference, notes: b.notes}, nil
}

func (b *postgresBench) backup(ctx context.Context, v *vault) error {
	engine, err := database.Find("postgresql", nil)
	if err != nil {
		return err
	}
	server, err := database.NewServer(database.ServerConfig{
		Database: plans.Database{Name: "bench", Engine: "postgresql", Settings: map[string]string{"host": b.server.Socket}, Secrets: map[string]plans.DatabaseSecret{"password": {Env: "X"}}},
		Engine:   engine, Place: shell.Runner{}, Secrets: map[string]string{"password": postgres.Password}, Mask: secret.NewMask(postgres.Password), Token: "bench",
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
func (b *postgresBench) ours(ctx context.Context) (rate float64, err error) {
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
func (b *postgresBench) second(ctx context.Context, v *vault) (err error) {
	const accounts = postgresScale * 100_000
	if b.whole, err = v.bytes(); err != nil {
		return err
	}
	change := fmt.Sprintf("update pgbench_accounts set abalance = abalance + 1 where aid > %d and aid <= %d", b.first, b.first+accounts/100)
	b.first += accounts / 100
	if _, err := b.server.SQL(ctx, "postgres", change); err != nil {
		return err
	}
	if err := b.backup(ctx, v); err != nil {
		return err
	}
	now, err := v.bytes()
	b.grown = now - b.whole
	return err
}

func (b *postgresBench) reference(ctx context.Context) (float64, error) {
	dir := b.on.fresh("stock")
	if err := run(exec.CommandContext(ctx, "bash", "-euc", stockScript(b.kopia, dir, stockCreate))); err != nil {
		return 0, err
	}
	environment := fmt.Sprintf("export PATH=%s:$PATH PGHOST=%s PGUSER=postgres PGPASSWORD=%s\n", postgres.Programs, b.server.Socket, postgres.Password)
	c := exec.CommandContext(ctx, "bash", "-euc", environment+stockScript(b.kopia, dir, b.script))
	began := time.Now()
	if err := run(c); err != nil {
		return 0, err
	}
	return perSecond(b.bytes, time.Since(began)), os.RemoveAll(dir)
}

func (b *postgresBench) notes() []string {
	return []string{fmt.Sprintf("The database has %s MB, and the repository %s MB after the first backup. After a change of one account in a hundred, side by side, a second backup added %s MB.",
		figure(float64(b.bytes)/1e6), figure(float64(b.whole)/1e6), figure(float64(b.grown)/1e6))}
}
