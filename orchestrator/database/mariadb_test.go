package database_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/testenv/mariadb"
)

func mariadbServer(t *testing.T, s *mariadb.Server, settings map[string]string) *database.Server {
	t.Helper()
	return mariadbWith(t, s, mariadb.Password, nil, settings)
}

// mariadbWith changes the engine's logical mode before the server is made.
func mariadbWith(t *testing.T, s *mariadb.Server, password string, change func(*plans.EngineMode), settings map[string]string) *database.Server {
	t.Helper()
	engine, err := database.Find("mariadb", nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		mode := engine.Spec.Modes["logical"]
		change(&mode)
		engine.Spec.Modes["logical"] = mode
	}
	all := map[string]string{"socket": s.Socket()}
	maps.Copy(all, settings)
	server, err := database.NewServer(database.ServerConfig{
		Database: plans.Database{Name: "shop/till", Engine: "mariadb", Settings: all, Secrets: map[string]plans.DatabaseSecret{"password": {Env: "X"}}},
		Engine:   engine, Place: shell.Runner{}, Secrets: map[string]string{"password": password}, Mask: secret.NewMask(password), Token: "0123456789abcdef",
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func mariadbSQL(t *testing.T, s *mariadb.Server, schema, statements string) string {
	t.Helper()
	out, err := s.SQL(t.Context(), schema, statements)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mariadbEverything is what dumps are known to lose, in schemas that come to be in different parts and use each
// other.
const mariadbEverything = `
create user 'teller'@'%' identified by 'x' require ssl with max_user_connections 7;
create user 'odd ''name'''@localhost identified via unix_socket;
create role auditor; grant auditor to teller; set default role auditor for teller;
create database ` + "`odd ``na-me.é`" + ` character set latin1 collate latin1_german1_ci;
create database hollow comment 'nothing';
create database first; create database second;
use second;
create table owner (id bigint primary key, name varchar(40) character set utf16 not null) comment 'tab	and ''quote''';
insert into owner select seq, concat('owner ', seq, char(9), char(10), '\\é') from seq_1_to_500;
use first;
create table account (
  id bigint primary key auto_increment, owner bigint not null, balance decimal(20,2) not null check (balance >= 0), kind enum('debit','cr''edit') default 'debit', flags set('a','b'),
  noted timestamp(6) not null default current_timestamp(6), at datetime, raw longblob, bits bit(9), exact double, rough float, data json, spot point, doubled decimal(20,2) as (balance * 2) virtual, kept decimal(20,2) as (balance + 1) stored,
  hidden int invisible default 3, unique (owner, id), foreign key (owner) references second.owner (id)
) auto_increment = 7000;
insert into account (id, owner, balance, kind, flags, noted, at, raw, bits, exact, rough, data, spot)
  select seq, seq, 100, 'cr''edit', 'a,b', '2026-01-01 00:00:00.123456', '2026-03-29 02:30:00', unhex(md5(seq)), seq, seq / 7, 0.5, json_object('i', seq), point(seq, 1) from seq_1_to_500;
update account set kind = null, raw = '', data = null where id = 3; update account set raw = null where id = 4; update account set hidden = 8 where id = 5;
set sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; insert into account (id, owner, balance) values (0, 1, 0); set sql_mode = default;
create sequence numbers start 17; select nextval(numbers), nextval(numbers);
create table kept_history (id int primary key, x int) with system versioning; insert into kept_history values (1, 1); update kept_history set x = 2; delete from kept_history; insert into kept_history values (2, 2);
create table parts (id int, at date) partition by range (year(at)) (partition p0 values less than (2026), partition p1 values less than maxvalue);
insert into parts values (1, '2025-05-05'), (2, '2026-05-05'), (2, '2026-05-05');
create view rich as select a.*, o.name, ` + "`odd ``na-me.é`" + `.twice(1) from account a join second.owner o on o.id = a.owner;
create definer = 'teller'@'%' sql security definer view richer as select * from rich;
create trigger checked before insert on account for each row set new.noted = current_timestamp(6);
create event hourly on schedule every 1 hour do delete from parts where id < 0;
grant select, insert (id) on first.account to teller; grant select on first.* to auditor;
use ` + "`odd ``na-me.é`" + `;
create function twice(n int) returns int deterministic return 2 * n;
create table ` + "`t``a b\\l\"é#`" + ` (` + "`c``o'l\\`" + ` text, b blob); insert into ` + "`t``a b\\l\"é#`" + ` values ('grün\\', 0x00ff0d0a1a5c27), (null, ''), ('', null);
create view ` + "`v``i\"\\é`" + ` as select * from first.rich;
delimiter |
create procedure ` + "`p``r`" + `() begin select 1; select '|é'; end|
delimiter ;
`

func TestMariaDBLogical(t *testing.T) {
	source, target := mariadb.Need(t), mariadb.Need(t)
	mariadbFile(t, source, mariadbEverything)
	server := mariadbServer(t, source, nil)
	problems, err := server.Check(t.Context(), "")
	if err != nil || server.Refused("check", problems) != nil || len(problems) != 1 || !strings.Contains(problems[0].Text, "FLOAT") {
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
	into := mariadbServer(t, target, nil)
	if err := into.Restore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	found, err := into.Digests(t.Context(), backup.Scopes, nil)
	if err != nil {
		t.Fatal(err)
	}
	if different := database.Differences(backup.Digests, found, nil); len(different) > 0 || len(found) != 6 {
		t.Error(different, len(found))
	}
	mariadbSame(t, source, target)
	err = into.Restore(t.Context(), restore)
	if err == nil || !strings.Contains(err.Error(), "it holds tables") {
		t.Errorf("a restore over data: %v", err)
	}
	restore.Replace = true
	if err := into.Restore(t.Context(), restore); err != nil {
		t.Error(err)
	}
	mariadbSame(t, source, target)
	for statement, want := range map[string]string{
		"select sum(balance) as sum, max(kind) kind, null as nothing from account;":            "[map[kind:debit nothing:<nil> sum:50000.00]]",
		"select id, raw is null as n from account where id in (3, 4) order by id desc -- last": "[map[id:4 n:1] map[id:3 n:0]]",
		"with few as (select id from account where id in (1, 2)) select id as `o``d'd` from few":     "[map[o`d'd:1] map[o`d'd:2]]",
		"select id from account where id < 0":                                                  "[]",
	} {
		if rows, err := into.Query(t.Context(), "first", statement); err != nil || fmt.Sprint(rows) != want {
			t.Errorf("%s: %v, %v", statement, rows, err)
		}
	}
}

// mariadbFile runs statements as the client reads them from a file.
func mariadbFile(t *testing.T, s *mariadb.Server, statements string) {
	t.Helper()
	if err := s.Source(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}

// mariadbSame compares what mariadb-dump tells of two servers.
func mariadbSame(t *testing.T, source, target *mariadb.Server) {
	t.Helper()
	for _, args := range [][]string{{"--all-databases", "--routines", "--triggers", "--events", "--dump-history", "--ignore-database=mysql", "--ignore-database=sys"}, {"--system=users"}} {
		was, err := source.Dump(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		is, err := target.Dump(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		if was != is || len(was) < 1000 {
			t.Errorf("%v differs: %s", args, firstDifference(was, is))
		}
	}
}
