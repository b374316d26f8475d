package database_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/mariadb"
)

// mariadbTransfers are transactions that each move money and log their number, until stop is called.
type mariadbTransfers struct {
	mu   sync.Mutex
	more *sync.Cond
	done int // acknowledged
	err  error
	over bool
	gone chan struct{}
}

func startMariaDBTransfers(t *testing.T, s *mariadb.Server) *mariadbTransfers {
	t.Helper()
	mariadbSQL(t, s, "", `create database bank; use bank; create table bank.account (id int primary key, balance int not null) engine=InnoDB; insert into bank.account select seq, 1000 from seq_0_to_99;
		create table bank.transfer (n int primary key, at timestamp(6) not null) engine=InnoDB`)
	client, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &mariadbTransfers{gone: make(chan struct{})}
	w.more = sync.NewCond(&w.mu)
	go func() {
		defer close(w.gone)
		for n, over := 1, false; !over; n++ {
			_, err := client.Ask(fmt.Sprintf(`begin; update bank.account set balance = balance - 7 where id = %d; update bank.account set balance = balance + 7 where id = %d;
				insert into bank.transfer values (%d, now(6)); commit; select 'done';`, n*31%100, n*17%100, n))
			w.mu.Lock()
			if err == nil {
				w.done = n
			}
			w.err = err
			over = w.over || err != nil
			w.more.Broadcast()
			w.mu.Unlock()
		}
		_ = client.Close() // its answers were read
	}()
	t.Cleanup(func() { w.end() })
	return w
}

// past waits until n more are acknowledged, and returns the number of the last.
func (w *mariadbTransfers) past(t *testing.T, n int) int {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for want := w.done + n; w.done < want && w.err == nil; {
		w.more.Wait()
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.done
}

func (w *mariadbTransfers) end() int {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	<-w.gone
	return w.done
}

// mariadbRestored expects every transfer up to `least` to `most`, none missing before the last, and no money lost.
func mariadbRestored(t *testing.T, s *mariadb.Server, least, most int) {
	t.Helper()
	found := mariadbSQL(t, s, "bank", "select count(*), coalesce(max(n), 0), (select sum(balance) from account) from transfer")
	var count, last, sum int
	if _, err := fmt.Sscan(found, &count, &last, &sum); err != nil {
		t.Fatal(found, err)
	}
	if count != last || last < least || last > most || sum != 100000 {
		t.Errorf("%d transfers up to number %d with %d in all, want the last to be %d to %d", count, last, sum, least, most)
	}
}

// restoreMariaDB fills the data folder of a new server.
func restoreMariaDB(t *testing.T, store *repository.Repository, backup database.Backup, logs *archived, until database.Until) (*mariadb.Server, error) {
	t.Helper()
	into := mariadb.Blank(t)
	config := restoreOf(store, backup)
	config.Until, config.Logs = until, logs.logs
	config.OpenLog = func(ctx context.Context, log database.Log) (io.ReadCloser, error) {
		return store.Open(ctx, logs.by[log.Name])
	}
	return into, mariadbServer(t, into, map[string]string{"data": into.Data()}).Restore(t.Context(), config)
}

// mariadbAt stops writers for a moment: the position, and the last transfer before it.
func mariadbAt(t *testing.T, s *mariadb.Server) (file string, offset, last int) {
	t.Helper()
	if _, err := fmt.Sscan(mariadbSQL(t, s, "", "flush tables with read lock; show master status; select max(n) from bank.transfer"), &file, &offset, &last); err != nil {
		t.Fatal(err)
	}
	return file, offset, last
}

// mariadbChanges are of kinds that a replay is known to lose.
const mariadbChanges = `
create user teller identified by 'x'; create role auditor; grant select on bank.* to auditor; grant auditor to teller; alter user teller with max_user_connections 7;
create database later character set latin1; use later;
create table more (id int primary key auto_increment, x varchar(20), spot point) engine=Aria; insert into more (x) values ('grün'), (concat('a', char(0), char(9), '''\\'));
create table ` + "`o``dd`" + ` as select seq from bank.account join seq_1_to_3; create table other (id int); create sequence numbers; select nextval(numbers), nextval(numbers);
create table kept_history (id int primary key, x int) with system versioning; insert into kept_history values (1, 1); update kept_history set x = 2;
set binlog_format = statement; set time_zone = '+05:00'; insert into more (x) values (now()), (rand()), (uuid_short() is null), (@@session.time_zone); set binlog_format = row;
create temporary table t (i int); insert into t values (1), (2); insert into more (x) select i from t;
delimiter |
create procedure p() begin insert into more (x) values ('|'); end|
create trigger tr after insert on more for each row insert into other values (new.id)|
create event e on schedule every 1 second do insert into more (x) values ('by the event')|
delimiter ;
call p();
`

func TestMariaDBPointInTime(t *testing.T) {
	source := mariadb.Need(t, "--default-storage-engine=Aria")
	mariadbSQL(t, source, "", "create database early; flush binary logs")
	if err := source.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := source.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server, store := mariadbServer(t, source, map[string]string{"purgeLogs": "yes"}), newRepository(t)
	logs := &archived{by: map[string]repository.ID{}}
	logs.pass(t, server, store)
	for _, log := range logs.logs {
		mariadbSameLog(t, source, store, logs, log)
	}
	writing := startMariaDBTransfers(t, source)
	begun, _, _ := strings.Cut(logs.logs[len(logs.logs)-1].To, ":")
	for mariadbSQL(t, source, "", "select unix_timestamp() > "+begun) != "1" { // so that a time tells the backup's end from the file's begin
		continue
	}
	least := writing.past(t, 20)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Mode: "physical", Store: store, Progress: progress{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	most := writing.past(t, 5)
	logs.pass(t, server, store)
	mariadbFile(t, source, mariadbChanges)

	type target struct {
		until       database.Until
		least, most int
	}
	targets := map[string]target{"the backup's end": {database.Until{Time: backup.Facts["timeEnd"]}, least, most}}
	file, offset, at := mariadbAt(t, source)
	targets["position"] = target{database.Until{LSN: fmt.Sprintf("%s:%d", file, offset)}, at, at}
	writing.past(t, 5)
	logs.pass(t, server, store)
	whole := mariadbSQL(t, source, "", "select date_format(utc_timestamp() + interval 1 second, '%Y-%m-%dT%H:%i:%s')")
	for passed := ""; passed != "1"; passed = mariadbSQL(t, source, "", fmt.Sprintf("set time_zone = '+00:00'; select max(at) > '%s' + interval 1 second from bank.transfer", whole)) {
		writing.past(t, 1)
	}
	for name, of := range map[string]struct{ text, before string }{"second": {whole + "+00:00", whole}, "its end": {whole + ".999999Z", whole + ".999999"}} {
		n := atoi(t, mariadbSQL(t, source, "", fmt.Sprintf("set time_zone = '+00:00'; select max(n) from bank.transfer where at < '%s'", of.before)))
		targets[name] = target{database.Until{Time: of.text}, n - 1, n} // it is logged a moment before it commits
	}
	last := writing.end()
	if err := source.Stop(syscall.SIGTERM); err != nil { // it ends its file in a way of its own
		t.Fatal(err)
	}
	if err := source.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	mariadbSQL(t, source, "later", "insert into more (x) values ('after the restart')")
	logs.pass(t, server, store)
	logs.pass(t, server, store)
	targets["end"] = target{database.Until{End: true}, last, last}
	if kept := strings.Count(mariadbSQL(t, source, "", "show binary logs"), "\n"); kept < 1 || kept > 2 { // what is read still is kept, too
		t.Errorf("the server keeps %d files and the present one", kept)
	}
	t.Log(backup.Facts, logs.logs, targets)

	for name, want := range targets {
		t.Run(name, func(t *testing.T) {
			into, err := restoreMariaDB(t, store, backup, logs, want.until)
			if err != nil {
				t.Fatal(err)
			}
			if left, err := filepath.Glob(into.Data() + "/*[mx][ut][sr][ta]*"); err != nil || len(left) > 0 { // muster, xtrabackup
				t.Error(left, err)
			}
			if err := into.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			mariadbRestored(t, into, want.least, want.most)
			if want.until.End {
				mariadbSQL(t, into, "later", "alter event e enable") // as on a replica, events wait for that
				mariadbSame(t, source, into)
			}
		})
	}
	for _, refused := range []struct {
		until database.Until
		kind  fault.Kind
		says  string
	}{
		{database.Until{Name: "before the release"}, fault.Unsupported, "MariaDB has none"},
		{database.Until{LSN: "0-1-17"}, fault.Invalid, "as binlog.000012:345"},
		{database.Until{LSN: "binlog.000099:4"}, fault.NotFound, "no archived binary log"},
		{database.Until{LSN: file + ":99999999"}, fault.NotFound, "bytes"},
		{database.Until{LSN: backup.Facts["binlogFile"] + ":4"}, fault.NotFound, "the backup ended after it"},
		{database.Until{Time: "2020-01-01T00:00:00Z"}, fault.NotFound, "before the end of this backup"},
		{database.Until{Time: "2120-01-01T00:00:00Z"}, fault.NotFound, "the archived logs end at"},
	} {
		into, err := restoreMariaDB(t, store, backup, logs, refused.until)
		if !fault.Is(err, refused.kind) || !strings.Contains(err.Error(), refused.says) {
			t.Errorf("%v: %v", refused.until, err)
		}
		if _, err := os.Stat(into.Data()); !os.IsNotExist(err) {
			t.Errorf("%v: the data folder was touched: %v", refused.until, err)
		}
	}
	t.Run("damaged", func(t *testing.T) {
		damaged := &archived{logs: logs.logs, by: maps.Clone(logs.by)}
		log := logs.logs[slices.IndexFunc(logs.logs, func(l database.Log) bool { return strings.HasPrefix(l.Name, file+"-") })]
		content := mariadbLog(t, store, logs, log)
		content[len(content)/2] ^= 1
		object, err := store.Put(t.Context(), "damaged", bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		damaged.by[log.Name] = object.ID
		into, err := restoreMariaDB(t, store, backup, damaged, database.Until{End: true})
		if !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "an archived binary log is damaged") {
			t.Errorf("a log with another byte: %v", err)
		}
		if _, err := os.Stat(filepath.Join(into.Data(), "muster.logs", "pid")); !os.IsNotExist(err) {
			t.Errorf("the server that replays is still there: %v", err)
		}
	})
	t.Run("lost", func(t *testing.T) { mariadbLost(t, source, store, backup, logs, targets["position"].until, at) })
}

// mariadbSameLog compares an archived binary log with the server's file.
func mariadbSameLog(t *testing.T, s *mariadb.Server, store *repository.Repository, logs *archived, log database.Log) {
	t.Helper()
	stored := mariadbLog(t, store, logs, log)
	name, _, _ := strings.Cut(log.Name, "-")
	is, err := os.ReadFile(filepath.Join(s.Data(), name))
	if err != nil || !bytes.Equal(stored, is) {
		t.Errorf("%s has %d bytes, and %d were stored, %v", name, len(is), len(stored), err)
	}
}

func mariadbLog(t *testing.T, store *repository.Repository, logs *archived, log database.Log) []byte {
	t.Helper()
	from, err := store.Open(t.Context(), logs.by[log.Name])
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	content, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// What the server has lost, and numbers that begin anew, are gaps, past which nothing is rolled forward; what is
// before them can still be had.
func mariadbLost(t *testing.T, source *mariadb.Server, store *repository.Repository, backup database.Backup, before *archived, until database.Until, at int) {
	t.Helper()
	server := mariadbServer(t, source, nil)
	var behind *archived
	end, _, _ := strings.Cut(before.logs[len(before.logs)-1].Name, "-")
	last := atoi(t, strings.TrimPrefix(end, "binlog."))
	for name, lose := range map[string]func() string{
		"a removed file": func() string {
			mariadbSQL(t, source, "", "flush binary logs; flush binary logs")
			present, _, _ := strings.Cut(mariadbSQL(t, source, "", "show master status"), "\t")
			return "purge binary logs to '" + present + "'"
		},
		"numbers that begin anew":               func() string { return "reset master" },
		"numbers that are past those of before": func() string { return fmt.Sprint("reset master to ", last+100) },
		"the number of before":                  func() string { return fmt.Sprint("reset master to ", last+1) },
	} {
		logs := &archived{logs: append([]database.Log{}, before.logs...), by: before.by}
		mariadbSQL(t, source, "", lose()+"; insert into bank.transfer values (1000000, now()); delete from bank.transfer where n = 1000000")
		logs.pass(t, server, store)
		if _, _, gap := database.Gap(backup.Facts["from"], logs.logs); !gap || len(logs.logs) == len(before.logs) {
			t.Errorf("%s: no gap in %v", name, logs.logs)
		}
		into, err := restoreMariaDB(t, store, backup, logs, database.Until{End: true})
		if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "have a gap") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(into.Data()); !os.IsNotExist(err) {
			t.Errorf("%s: the data folder was touched: %v", name, err)
		}
		behind = logs
	}
	if into, err := restoreMariaDB(t, store, backup, behind, until); err != nil {
		t.Error(err)
	} else if err := into.Start(t.Context()); err != nil {
		t.Error(err)
	} else {
		mariadbRestored(t, into, at, at)
	}
}
