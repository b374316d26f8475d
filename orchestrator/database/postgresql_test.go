package database_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/postgres"
)

// progress counts nothing.
type progress struct{}

func (progress) Total(int64, int64) {}
func (progress) Add(int64, int64)   {}
func (progress) Status(string)      {}

func newRepository(t *testing.T) *repository.Repository {
	t.Helper()
	key, err := repository.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	config := repository.Config{URL: "file://" + t.TempDir(), Key: key, CacheDir: t.TempDir(), Now: time.Now}
	if err := repository.Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r, err := repository.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(context.WithoutCancel(t.Context())) })
	return r
}

func postgresServer(t *testing.T, s *postgres.Server, settings map[string]string) *database.Server {
	t.Helper()
	return postgresAt(t, shell.Runner{}, s, postgres.Password, settings)
}

// everything is a database with what dumps are known to lose.
const everything = `
create role teller login password 'x'; create role auditor; grant auditor to teller;
create database "odd 'name'" owner teller connection limit 7;
alter database "odd 'name'" set work_mem = '5MB';
`

const odd = `
create extension if not exists pgcrypto;
create schema "Bank" authorization teller;
create type "Bank".kind as enum ('debit', 'credit');
create table "Bank".account (id bigint primary key, owner text not null, balance numeric(20,2) not null check (balance >= 0), kind "Bank".kind default 'debit', noted timestamptz default now(), data jsonb, raw bytea);
insert into "Bank".account select i, E'owner\t' || i || E'\n\\', 100, 'credit', '2026-01-01', jsonb_build_object('i', i), decode(md5(i::text), 'hex') from generate_series(1, 2000) i;
create sequence "Bank".numbers start 17; select nextval('"Bank".numbers'), nextval('"Bank".numbers');
create table "Bank".parts (id int, at date) partition by range (at);
create table "Bank".parts_2026 partition of "Bank".parts for values from ('2026-01-01') to ('2027-01-01');
insert into "Bank".parts values (1, '2026-05-05');
create view "Bank".rich as select * from "Bank".account where balance > 50;
create materialized view "Bank".total as select sum(balance) from "Bank".account;
create function "Bank".double(n int) returns int language sql as 'select 2 * n';
create index on "Bank".account (owner);
grant select on "Bank".account to auditor;
alter table "Bank".account enable row level security;
create policy own on "Bank".account using (owner = current_user);
comment on table "Bank".account is 'tab	and ''quote''';
select lo_from_bytea(4711, decode('00ff10', 'hex'));
create unlogged table "Bank".fleeting (id int);
`

func TestPostgreSQLLogical(t *testing.T) {
	source, target := postgres.Need(t), postgres.Need(t)
	sql(t, source, "postgres", everything)
	sql(t, source, "odd 'name'", odd)
	sql(t, source, "postgres", `create table wide as select i, repeat(md5(i::text), 40) as text from generate_series(1, 80000) i`)

	server := postgresServer(t, source, nil)
	problems, err := server.Check(t.Context(), "")
	if err != nil || server.Refused("check", problems) != nil || len(problems) != 1 {
		t.Fatal(problems, err)
	}
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now, Digests: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range backup.Digests {
		t.Log(d.Line())
	}
	t.Log(backup.Facts)
	restore := restoreOf(store, backup)
	into := postgresServer(t, target, nil)
	comesBack(t, into, restore, backup)
	for _, db := range []string{"odd 'name'", "postgres"} {
		if was, is := dumped(t, source, db), dumped(t, target, db); was != is {
			t.Errorf("the dump of %s differs:\n%s", db, firstDifference(was, is))
		}
	}
	if was, is := dumped(t, source, ""), dumped(t, target, ""); was != is {
		t.Errorf("the globals differ:\n%s", firstDifference(was, is))
	}
	err = into.Restore(t.Context(), restore)
	if err == nil || !strings.Contains(err.Error(), "it holds data") {
		t.Errorf("a restore over data: %v", err)
	}
	restore.Replace = true
	if err := into.Restore(t.Context(), restore); err != nil {
		t.Error(err)
	}
	rows, err := into.Query(t.Context(), "odd 'name'", `select sum(balance) as sum from "Bank".account`)
	if err != nil || fmt.Sprint(rows) != "[map[sum:200000.00]]" {
		t.Error(rows, err)
	}
}

// comesBack restores a backup, and expects the content of every table to be as it was. It returns what it found.
func comesBack(t *testing.T, into *database.Server, restore database.RestoreConfig, backup database.Backup) []database.Digest {
	t.Helper()
	if err := into.Restore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	found, err := into.Digests(t.Context(), backup.Scopes, nil)
	if err != nil {
		t.Fatal(err)
	}
	if different := database.Differences(backup.Digests, found, nil); len(different) > 0 {
		t.Error(different)
	}
	return found
}

func restoreOf(store *repository.Repository, backup database.Backup) database.RestoreConfig {
	objects := map[string]repository.ID{}
	config := database.RestoreConfig{Mode: backup.Mode, Facts: backup.Facts, Progress: progress{}}
	for _, part := range backup.Parts {
		objects[part.Path] = part.Object.ID
		config.Parts = append(config.Parts, part.Part)
	}
	config.Open = func(ctx context.Context, part database.Part) (io.ReadCloser, error) {
		return store.Open(ctx, objects[part.Path])
	}
	return config
}

func sql(t *testing.T, s *postgres.Server, db, statements string) string {
	t.Helper()
	file := filepath.Join(s.Dir, "statements.sql")
	if err := os.WriteFile(file, []byte(statements), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := s.Run(t.Context(), filepath.Join(postgres.Programs, "psql"), "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", "dbname='"+strings.ReplaceAll(db, "'", `\'`)+"'", "-f", file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// dumped is a database, or the globals, as pg_dump shows them.
func dumped(t *testing.T, s *postgres.Server, db string) string {
	t.Helper()
	name, args := "pg_dump", []string{"-w", "--create", "dbname='" + strings.ReplaceAll(db, "'", `\'`) + "'"}
	if db == "" {
		name, args = "pg_dumpall", []string{"-w", "--globals-only"}
	}
	out, err := s.Run(t.Context(), filepath.Join(postgres.Programs, name), args...)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, line := range strings.Split(out, "\n") {
		if !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d\n- %s\n+ %s", i, x[i], y[i])
		}
	}
	return fmt.Sprintf("%d and %d lines", len(x), len(y))
}
