package database_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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
		Engine:   engine, Place: shell.Runner{}, Secrets: map[string]string{"password": password}, Mask: secret.NewMask(password), Token: tokenOf(t.Name(), all),
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
	if found := comesBack(t, into, restore, backup); len(found) != 6 {
		t.Error(found)
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
		"select sum(balance) as sum, max(kind) kind, null as nothing from account;":              "[map[kind:debit nothing:<nil> sum:50000.00]]",
		"select id, raw is null as n from account where id in (3, 4) order by id desc -- last":   "[map[id:4 n:1] map[id:3 n:0]]",
		"with few as (select id from account where id in (1, 2)) select id as `o``d'd` from few": "[map[o`d'd:1] map[o`d'd:2]]",
		"select id from account where id < 0":                                                    "[]",
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
		if was, is := sortedLines(was), sortedLines(is); was != is || len(was) < 1000 {
			t.Errorf("%v differs: %s", args, firstDifference(was, is))
		}
	}
}

// sortedLines are those of a dump, which gives rows of tables without a key in no order.
func sortedLines(dump string) string {
	lines := strings.Split(dump, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], ",;")
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// mariadbSchemas come to be in several parts; in each, money moves, and a log has the number of each transaction
// that moved some.
var mariadbSchemas = []string{"s0", "s1", "s2", "s3", "s4", "s5"}

func mariadbMoney(t *testing.T, s *mariadb.Server, engine string) {
	t.Helper()
	var text strings.Builder
	for _, schema := range mariadbSchemas {
		fmt.Fprintf(&text, "create database %[1]s; use %[1]s; create table account (id int primary key, balance int not null) engine=%[2]s; insert into account select seq, 1000 from seq_0_to_99;\n", schema, engine)
		fmt.Fprintf(&text, "create table log (writer int, seq int, primary key (writer, seq)) engine=%s; create table padding (id int primary key, text text); insert into padding select seq, repeat(md5(seq), 8) from seq_1_to_8000;\n", engine)
	}
	mariadbFile(t, s, text.String())
}

// mariadbWriters move money until stop is called, each transaction in two schemas. acknowledged is how many of
// each writer's the server has acknowledged.
func mariadbWriters(t *testing.T, s *mariadb.Server, writers int) (acknowledged func() []int, stop func() error) {
	t.Helper()
	counts := make([]atomic.Int64, writers)
	ctx, cancel := context.WithCancel(t.Context())
	group, _ := errgroup.WithContext(ctx)
	for writer := range writers {
		client, err := s.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() error {
			for seq := 1; ctx.Err() == nil; seq++ {
				one, other := mariadbSchemas[(seq+writer)%len(mariadbSchemas)], mariadbSchemas[(seq+writer+1)%len(mariadbSchemas)]
				var text strings.Builder
				text.WriteString("begin;")
				for _, schema := range []string{one, other} { // each writer has accounts of its own
					fmt.Fprintf(&text, "update %[1]s.account set balance = balance - %[2]d where id = %[3]d; update %[1]s.account set balance = balance + %[2]d where id = %[4]d; insert into %[1]s.log values (%[5]d, %[6]d);",
						schema, 1+seq%9, 10*writer+seq%10, 10*writer+(seq+1)%10, writer, seq)
				}
				if _, err := client.Ask(text.String() + "commit; select 'done';"); err != nil {
					return err
				}
				counts[writer].Store(int64(seq))
			}
			return client.Close()
		})
	}
	acknowledged = func() []int {
		var out []int
		for i := range counts {
			out = append(out, int(counts[i].Load()))
		}
		return out
	}
	stop = sync.OnceValue(func() error {
		cancel()
		return group.Wait()
	})
	t.Cleanup(func() { _ = stop() }) // the test has asked for the error, or has failed
	return acknowledged, stop
}

// The instant is one for all parts, and the position is its own: every transaction is in both of its schemas or in
// neither, all that were acknowledged are there, and there are just as many as the GTID says.
func TestMariaDBOneInstant(t *testing.T) {
	source, target := mariadb.Need(t), mariadb.Need(t)
	mariadbMoney(t, source, "InnoDB")
	gtid := func(text string) int {
		n, err := strconv.Atoi(text[strings.LastIndex(text, "-")+1:])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := gtid(mariadbSQL(t, source, "", "select @@gtid_binlog_pos"))
	const writers = 4
	acknowledged, stop := mariadbWriters(t, source, writers)
	var atReady []int
	store := newRepository(t)
	backup, err := mariadbServer(t, source, nil).Backup(t.Context(), database.BackupConfig{Store: store, Progress: whenHeld{call: func() { atReady = acknowledged() }}, Digests: true, Now: time.Now})
	after := acknowledged()
	if err := errors.Join(err, stop()); err != nil {
		t.Fatal(err)
	}
	t.Log("acknowledged when ready", atReady, "and at the end", after, "facts", backup.Facts)
	into := mariadbServer(t, target, nil)
	if err := into.Restore(t.Context(), restoreOf(store, backup)); err != nil {
		t.Fatal(err)
	}
	found, err := into.Digests(t.Context(), backup.Scopes, nil)
	if different := database.Differences(backup.Digests, found, nil); err != nil || len(different) > 0 {
		t.Error(different, err)
	}
	for _, schema := range mariadbSchemas {
		if sum := mariadbSQL(t, target, schema, "select sum(balance) from account"); sum != "100000" {
			t.Errorf("%s has %s", schema, sum)
		}
	}
	all := 0
	for writer := range writers {
		have := map[string]bool{}
		last := 0
		for _, schema := range mariadbSchemas {
			for _, text := range strings.Fields(mariadbSQL(t, target, schema, fmt.Sprintf("select seq from log where writer = %d", writer))) {
				have[schema+" "+text] = true
				seq, err := strconv.Atoi(text)
				if err != nil {
					t.Fatal(err)
				}
				last = max(last, seq)
			}
		}
		for seq := 1; seq <= last; seq++ {
			one, other := mariadbSchemas[(seq+writer)%len(mariadbSchemas)], mariadbSchemas[(seq+writer+1)%len(mariadbSchemas)]
			if !have[fmt.Sprint(one, " ", seq)] || !have[fmt.Sprint(other, " ", seq)] {
				t.Errorf("transaction %d of writer %d, of %d, is not in both schemas", seq, writer, last)
			}
		}
		if last < atReady[writer] {
			t.Errorf("writer %d has %d transactions, and %d were acknowledged before the session was ready", writer, last, atReady[writer])
		}
		if after[writer] <= last {
			t.Errorf("writer %d did not write during the backup: the test shows nothing", writer)
		}
		all += last
	}
	if position := gtid(backup.Facts["gtid"]) - before; position != all {
		t.Errorf("%d transactions came back, and the position is after %d", all, position)
	}
}

func TestMariaDBNonTransactional(t *testing.T) {
	source, target := mariadb.Need(t), mariadb.Need(t)
	mariadbMoney(t, source, "MyISAM")
	server := mariadbServer(t, source, nil)
	problems, err := server.Check(t.Context(), "")
	if err != nil || len(problems) != 2*len(mariadbSchemas) || problems[0].Kind != "unsupported" || problems[0].Subject != "table s0.account (MyISAM)" {
		t.Fatal(problems, err)
	}
	server = mariadbServer(t, source, map[string]string{"nonTransactional": "lock"})
	problems, err = server.Check(t.Context(), "")
	if err != nil || len(problems) != 2*len(mariadbSchemas) || server.Refused("check", problems) != nil {
		t.Fatal(problems, err)
	}
	acknowledged, stop := mariadbWriters(t, source, 1)
	var atReady []int
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: whenHeld{call: func() { atReady = acknowledged() }}, Digests: true, Now: time.Now})
	if err := errors.Join(err, stop()); err != nil {
		t.Fatal(err)
	}
	t.Log(backup.Facts, atReady)
	into := mariadbServer(t, target, nil)
	if err := into.Restore(t.Context(), restoreOf(store, backup)); err != nil {
		t.Fatal(err)
	}
	found, err := into.Digests(t.Context(), backup.Scopes, nil)
	if different := database.Differences(backup.Digests, found, nil); err != nil || len(different) > 0 {
		t.Error(different, err)
	}
	logged := 0
	for _, schema := range mariadbSchemas {
		n, err := strconv.Atoi(mariadbSQL(t, target, schema, "select count(*) from log"))
		if err != nil {
			t.Fatal(err)
		}
		logged += n
	}
	// What was under way may be in one of its schemas.
	if logged != 2*atReady[0] && logged != 2*atReady[0]+1 && logged != 2*atReady[0]+2 {
		t.Errorf("%d transactions were acknowledged when the lock was held, and the schemas have %d lines", atReady[0], logged)
	}
}

// A server without schemas has its users.
func TestMariaDBEmpty(t *testing.T) {
	source, target := mariadb.Need(t), mariadb.Need(t)
	mariadbSQL(t, source, "", "create user teller identified by 'x'")
	store := newRepository(t)
	backup, err := mariadbServer(t, source, nil).Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now, Digests: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := mariadbServer(t, target, nil).Restore(t.Context(), restoreOf(store, backup)); err != nil {
		t.Fatal(err)
	}
	mariadbSame(t, source, target)
}
