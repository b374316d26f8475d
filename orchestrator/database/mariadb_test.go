package database_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
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
		if was != is || len(was) < 1000 {
			t.Errorf("%v differs: %s", args, firstDifference(was, is))
		}
	}
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

func TestMariaDBDenied(t *testing.T) {
	source := mariadb.Need(t)
	const wrong = `planted-wrong-"password" \`
	server := mariadbWith(t, source, wrong, nil, nil)
	_, err := server.Check(t.Context(), "")
	if fault.KindOf(err) != fault.Denied || strings.Contains(err.Error(), "planted") {
		t.Error(err)
	}
	_, err = server.Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Progress: progress{}, Now: time.Now})
	if fault.KindOf(err) != fault.Denied || strings.Contains(err.Error(), "planted") {
		t.Error(err)
	}
	mariadbSQL(t, source, "", `create user weak@localhost identified by 'planted-wrong-"password" \\'; grant select on *.* to weak@localhost`)
	server = mariadbWith(t, source, wrong, nil, map[string]string{"user": "weak"})
	problems, err := server.Check(t.Context(), "")
	if err != nil || fault.KindOf(server.Refused("check", problems)) != fault.Denied || !strings.Contains(fmt.Sprint(problems), "RELOAD") {
		t.Error(problems, err)
	}
	_, err = server.Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Progress: progress{}, Now: time.Now})
	if fault.KindOf(err) != fault.Denied || strings.Contains(err.Error(), "planted") {
		t.Error(err)
	}
	mariadbSQL(t, source, "", "grant reload, show view, event, trigger, binlog monitor on *.* to weak@localhost; create database shop; create table shop.item (id int)")
	problems, err = server.Check(t.Context(), "")
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Progress: progress{}, Now: time.Now, Digests: true})
	if err != nil || len(backup.Digests) != 1 {
		t.Error(backup, err)
	}
	if err := source.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Check(t.Context(), ""); fault.KindOf(err) != fault.Transient {
		t.Error(err)
	}
}

// Writers wait no longer than the limit for parts that do not begin, and not at all for a backup that was given
// up, or whose session was killed.
func TestMariaDBHoldEnds(t *testing.T) {
	source := mariadb.Need(t)
	mariadbMoney(t, source, "InnoDB")
	never := func(m *plans.EngineMode) { m.Backup = "exec cat /dev/zero >/dev/null" }
	var write chan error
	begin := func() { // the lock is held now
		write = make(chan error, 1)
		go func() {
			_, err := source.SQL(t.Context(), "s0", "update account set balance = balance + 1 where id = 1")
			write <- err
		}()
	}
	t.Run("limit", func(t *testing.T) {
		_, err := mariadbWith(t, source, mariadb.Password, never, map[string]string{"holdSeconds": "1"}).Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Progress: whenHeld{call: begin}, Now: time.Now})
		if fault.KindOf(err) != fault.Busy || !strings.Contains(err.Error(), "only 0 of 4 parts had begun") {
			t.Error(err)
		}
		if err := <-write; err != nil {
			t.Error(err)
		}
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := mariadbWith(t, source, mariadb.Password, never, map[string]string{"holdSeconds": "1000"}).Backup(ctx, database.BackupConfig{Store: newRepository(t), Now: time.Now, Progress: whenHeld{call: func() {
			begin()
			cancel()
		}}})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-write; err != nil {
			t.Error(err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		_, err := mariadbWith(t, source, mariadb.Password, never, map[string]string{"holdSeconds": "1000"}).Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Now: time.Now, Progress: whenHeld{call: func() {
			for _, dir := range mariadbScripts(t, source) {
				if _, err := os.Stat(filepath.Join(dir, "begun")); err != nil {
					continue
				}
				text, err := os.ReadFile(filepath.Join(dir, "pid"))
				if err != nil {
					t.Fatal(err)
				}
				pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
				if err != nil {
					t.Fatal(err)
				}
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			begin()
		}}})
		if err == nil {
			t.Error("it ended well")
		}
		if err := <-write; err != nil {
			t.Error(err)
		}
	})
	t.Run("long statement", func(t *testing.T) {
		client, err := source.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Ask("lock tables s0.account write; select 'locked';"); err != nil {
			t.Fatal(err)
		}
		_, err = mariadbServer(t, source, map[string]string{"holdSeconds": "1"}).Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Progress: progress{}, Now: time.Now})
		if fault.KindOf(err) != fault.Busy {
			t.Error(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
}

// mariadbScripts are the folders of scripts that work with a server.
func mariadbScripts(t *testing.T, s *mariadb.Server) []string {
	t.Helper()
	all, err := filepath.Glob("/dev/shm/muster-db.*")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(dir string) bool {
		text, err := os.ReadFile(filepath.Join(dir, "my.cnf"))
		return err != nil || !strings.Contains(string(text), s.Dir+"/")
	})
}

// whenHeld calls when the session holds the instant, before any part begins.
type whenHeld struct {
	progress
	call func()
}

func (w whenHeld) Total(int64, int64) { w.call() }

// onBytes calls once when so many bytes have moved.
type onBytes struct {
	progress
	after int64
	call  func()
	moved atomic.Int64
	once  sync.Once
}

func (o *onBytes) Add(bytes, _ int64) {
	if o.moved.Add(bytes) > o.after {
		o.once.Do(o.call)
	}
}

func TestMariaDBDumpIsKilled(t *testing.T) {
	source := mariadb.Need(t)
	mariadbMoney(t, source, "InnoDB")
	store := newRepository(t)
	killed := 0
	kill := func() {
		for _, dir := range mariadbScripts(t, source) {
			processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
			if err != nil {
				t.Error(err)
			}
			for _, name := range processes {
				text, _ := os.ReadFile(name) // it may have ended
				if args := strings.Split(string(text), "\x00"); args[0] == "mariadb-dump" && slices.Contains(args, "--routines") && slices.Contains(args, "--defaults-file="+dir+"/my.cnf") {
					if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
						killed++
					}
				}
			}
		}
	}
	backup, err := mariadbServer(t, source, nil).Backup(t.Context(), database.BackupConfig{Store: store, Progress: &onBytes{after: 100_000, call: kill}, Now: time.Now, Digests: true})
	if err == nil || killed == 0 || len(backup.Facts) > 0 {
		t.Error(err, killed, backup.Facts)
	}
	t.Log(killed, err)
	// The folders of scripts that were killed go with the next script.
	if _, err := mariadbServer(t, source, nil).Version(t.Context()); err != nil {
		t.Error(err)
	}
	if left := mariadbScripts(t, source); len(left) > 0 {
		t.Errorf("scripts left %v", left)
	}
	mariadbSQL(t, source, "s0", "update account set balance = balance + 1 where id = 1")
}

func TestMariaDBTruncated(t *testing.T) {
	source, target := mariadb.Need(t), mariadb.Need(t)
	mariadbMoney(t, source, "InnoDB")
	store := newRepository(t)
	backup, err := mariadbServer(t, source, nil).Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	into := mariadbServer(t, target, nil)
	whole := restoreOf(store, backup)
	for _, part := range whole.Parts {
		for name, cut := range map[string]func([]byte) []byte{
			"last line":  func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("-- Dump completed"))] },
			"first half": func(b []byte) []byte { return b[:bytes.LastIndexByte(b[:len(b)/2], '\n')+1] },
			"nothing":    func([]byte) []byte { return nil },
		} {
			config := whole
			config.Open = func(ctx context.Context, p database.Part) (io.ReadCloser, error) {
				from, err := whole.Open(ctx, p)
				if err != nil || p.Path != part.Path {
					return from, err
				}
				defer from.Close()
				content, err := io.ReadAll(from)
				return io.NopCloser(bytes.NewReader(cut(content))), err
			}
			err := into.Restore(t.Context(), config) // of one token: each is a repeat of the one before
			if err == nil || name != "first half" && fault.KindOf(err) != fault.Corrupt {
				t.Errorf("%s without %s: %v", part.Path, name, err)
			}
		}
	}
	if err := into.Restore(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	mariadbSame(t, source, target)
	if left := mariadbSQL(t, target, "", "show databases like 'muster%'"); left != "" {
		t.Errorf("%s is left", left)
	}
}

// A physical backup is one instant of the whole server, users and tables without transactions included, and its
// position is that of its end.
func TestMariaDBPhysical(t *testing.T) {
	source, target := mariadb.Need(t), mariadb.Need(t)
	mariadbMoney(t, source, "InnoDB")
	mariadbSQL(t, source, "", "create user teller identified by 'x'; create database old; create table old.t (id int) engine=MyISAM; insert into old.t values (7)")
	before := mariadbSQL(t, source, "", "select @@gtid_binlog_pos")
	server := mariadbServer(t, source, nil)
	if problems, err := server.Check(t.Context(), "physical"); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	acknowledged, stop := mariadbWriters(t, source, 2)
	var atReady []int
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Mode: "physical", Store: store, Progress: whenHeld{call: func() { atReady = acknowledged() }}, Digests: true, Now: time.Now})
	after := acknowledged()
	if err := errors.Join(err, stop()); err != nil {
		t.Fatal(err)
	}
	t.Log(atReady, after, backup.Facts, backup.Parts)

	settings := map[string]string{"data": target.Data()}
	restore := restoreOf(store, backup)
	err = mariadbServer(t, target, settings).Restore(t.Context(), restore)
	if err == nil || !strings.Contains(err.Error(), "a server runs on it") || !strings.Contains(err.Error(), "it is not empty") {
		t.Fatal(err)
	}
	restore.Replace = true
	settings["stopCommand"] = "kill $(cat '" + target.Dir + "/pid') && while [ -e '" + target.Dir + "/pid' ]; do sleep 0.1; done"
	settings["startCommand"] = "test -e '" + target.Data() + "/ibdata1' && touch '" + target.Dir + "/started'"
	into := mariadbServer(t, target, settings)
	whole := restore.Open
	for _, keep := range []func([]byte) int{
		func(b []byte) int { return len(b) / 2 }, func(b []byte) int { return len(b) - 10 }, func([]byte) int { return 0 },
		func(b []byte) int { return bytes.Index(b, []byte("muster.whole")) - 14 }, // the chunk before is the last that mariadb-backup wrote
	} {
		restore.Open = func(ctx context.Context, part database.Part) (io.ReadCloser, error) {
			from, err := whole(ctx, part)
			if err != nil {
				return nil, err
			}
			defer from.Close()
			content, err := io.ReadAll(from)
			return io.NopCloser(bytes.NewReader(content[:keep(content)])), err
		}
		if err := into.Restore(t.Context(), restore); fault.KindOf(err) != fault.Corrupt {
			t.Errorf("a stream that is not whole: %v", err)
		}
		settings["stopCommand"] = "" // it has been stopped
		into = mariadbServer(t, target, settings)
	}
	restore.Open, restore.Replace = whole, false // what is there is an earlier try's
	if err := into.Restore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(target.Dir, "started")); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(target.Data() + "/*[mx][ut][sr][ta]*"); err != nil || len(left) > 0 { // muster, xtrabackup
		t.Error(left, err)
	}
	if err := target.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := target.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := 0
	for writer := range atReady {
		ends := map[int]int{}
		for _, schema := range mariadbSchemas {
			for _, text := range strings.Fields(mariadbSQL(t, target, schema, fmt.Sprintf("select seq from log where writer = %d", writer))) {
				seq, err := strconv.Atoi(text)
				if err != nil {
					t.Fatal(err)
				}
				ends[seq]++
			}
		}
		last := len(ends)
		for seq := 1; seq <= last; seq++ {
			if ends[seq] != 2 {
				t.Errorf("transaction %d of writer %d is in %d schemas", seq, writer, ends[seq])
			}
		}
		if last < atReady[writer] {
			t.Errorf("writer %d has %d, and %d were acknowledged before", writer, last, atReady[writer])
		}
		all += last
	}
	for _, schema := range mariadbSchemas {
		if sum := mariadbSQL(t, target, schema, "select sum(balance) from account"); sum != "100000" {
			t.Errorf("%s has %s", schema, sum)
		}
	}
	number := func(gtid string) int {
		n, err := strconv.Atoi(gtid[strings.LastIndex(gtid, "-")+1:])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if position := number(backup.Facts["gtid"]) - number(before); position != all {
		t.Errorf("%d transactions came back, and the position is after %d", all, position)
	}
	if found := mariadbSQL(t, target, "", "select id from old.t; select user from mysql.user where user = 'teller'"); found != "7\nteller" {
		t.Error(found)
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

// Damage in the server's own files is told as such, and makes no backup.
func TestMariaDBCorrupt(t *testing.T) {
	for engine, file := range map[string]string{"InnoDB": "padding.ibd", "MyISAM": "log.MYD"} {
		t.Run(engine, func(t *testing.T) {
			source := mariadb.Need(t)
			mariadbMoney(t, source, engine)
			if engine == "MyISAM" {
				mariadbSQL(t, source, "s3", "insert into log values (1, 1); flush tables")
			}
			if err := source.Stop(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(source.Data(), "s3", file)
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for i := len(content) / 4; i < len(content)*3/4; i++ {
				content[i] ^= 0x5a
			}
			if engine == "MyISAM" {
				content = content[:1]
			}
			if err := os.WriteFile(name, content, 0); err != nil {
				t.Fatal(err)
			}
			if err := source.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err = mariadbServer(t, source, map[string]string{"nonTransactional": "lock"}).Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Progress: progress{}, Now: time.Now})
			if fault.KindOf(err) != fault.Corrupt {
				t.Error(err)
			}
			if engine == "InnoDB" {
				_, err = mariadbServer(t, source, nil).Backup(t.Context(), database.BackupConfig{Mode: "physical", Store: newRepository(t), Progress: progress{}, Now: time.Now})
				if fault.KindOf(err) != fault.Corrupt || strings.Contains(err.Error(), "ZZZ") {
					t.Error(err)
				}
			}
		})
	}
}
