package database_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/mariadb"
	"github.com/musterdr/muster/testenv/postgres"
)

// quiet is a server with writers that a test keeps waiting.
type quiet struct {
	server       *database.Server
	dir, data    string                    // the server's own
	committed    func() []int              // of each writer, at the server
	acknowledged func() []int              // of each writer
	waiting      func() int                // writers that wait for the hold, by the server's own list
	process      func() int                // the server's
	restored     func(copied string) []int // what a server of its own makes of a copy of the data folder
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: ", what)
		}
	}
}

func atLeast(counts []int, least []int, more int) bool {
	for i := range counts {
		if counts[i] < least[i]+more {
			return false
		}
	}
	return true
}

func equal(a, b []int) bool { return atLeast(a, b, 0) && atLeast(b, a, 0) }

// goOn waits until each writer was acknowledged more.
func (q quiet) goOn(t *testing.T) {
	t.Helper()
	before := q.acknowledged()
	await(t, "writers go on", func() bool { return atLeast(q.acknowledged(), before, 3) })
}

// scripts are the processes of the server's holds.
func (q quiet) scripts(t *testing.T) []int {
	t.Helper()
	folders, err := filepath.Glob("/dev/shm/muster-db.*/*")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, name := range folders {
		if base := filepath.Base(name); base != "statements" && base != "told" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(name), "pid"))
		if err != nil {
			continue // it has just begun, or ended
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		environment, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if strings.Contains(string(environment), q.dir) {
			found = append(found, pid)
		}
	}
	return found
}

func (q quiet) begin(t *testing.T, within time.Duration) *database.Hold {
	t.Helper()
	hold, err := q.server.Quiesce(t.Context(), within)
	if err != nil {
		t.Fatal(err)
	}
	return hold
}

func wantBusy(t *testing.T, hold *database.Hold) {
	t.Helper()
	facts, err := hold.Release()
	if fault.KindOf(err) != fault.Busy || facts != nil {
		t.Errorf("%v, %v", facts, err)
	}
}

// holds has a server's writers wait, looks whether its files hold what was acknowledged, and lets them go in every
// way.
func (q quiet) holds(t *testing.T) {
	t.Run("copied", func(t *testing.T) {
		q.goOn(t)
		hold := q.begin(t, time.Minute)
		held := q.committed()
		await(t, "all writers wait", func() bool { return q.waiting() == len(held) })
		await(t, "what is committed is acknowledged", func() bool { return equal(q.acknowledged(), held) })
		copied := q.copy(t)
		if now := q.committed(); !equal(now, held) || !equal(q.acknowledged(), held) {
			t.Errorf("writers went on: %v, then %v", held, now)
		}
		facts, err := hold.Release()
		if err != nil || facts["heldSeconds"] == "" || facts["version"] == "" {
			t.Errorf("%v, %v", facts, err)
		}
		t.Log(facts)
		q.goOn(t)
		if got := q.restored(copied); !equal(got, held) {
			t.Errorf("the copy holds %v of the writers, not %v", got, held)
		}
	})
	t.Run("time is over", func(t *testing.T) {
		hold := q.begin(t, 4*time.Second)
		q.goOn(t)
		wantBusy(t, hold)
	})
	t.Run("killed", func(t *testing.T) {
		hold := q.begin(t, 10*time.Minute)
		for _, pid := range q.scripts(t) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		q.goOn(t)
		wantBusy(t, hold)
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hold, err := q.server.Quiesce(ctx, 10*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		q.goOn(t)
		wantBusy(t, hold)
	})
	// The machine of the tools is gone, and its connections are not closed.
	t.Run("the server's own watchdog", func(t *testing.T) {
		hold := q.begin(t, 4*time.Second)
		groups := q.scripts(t)
		if len(groups) != 1 {
			t.Fatalf("scripts %v", groups)
		}
		if err := syscall.Kill(-groups[0], syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		q.goOn(t)
		if err := syscall.Kill(-groups[0], syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		wantBusy(t, hold)
	})
	if left := q.scripts(t); len(left) > 0 {
		t.Errorf("scripts are left: %v", left)
	}
}

// copy is a snapshot of the data folder: the server's processes do nothing meanwhile.
func (q quiet) copy(t *testing.T) string {
	t.Helper()
	copied := filepath.Join(filepath.Dir(q.data), "copied")
	server := q.process()
	defer stop(t, server)()
	for _, child := range numbers(t, read(t, fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", server))) {
		defer stop(t, child)()
	}
	out, err := exec.Command("cp", "-a", q.data, copied).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return copied
}

// stop has a process do nothing until it is let go; one that has ended can stay a zombie.
func stop(t *testing.T, pid int) (goOn func()) {
	t.Helper()
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(pid, s); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	for state := ""; state != "T" && state != "Z"; {
		_, rest, _ := strings.Cut(read(t, fmt.Sprintf("/proc/%d/stat", pid)), ") ")
		state, _, _ = strings.Cut(rest, " ")
	}
	return func() { signal(syscall.SIGCONT) }
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func numbers(t *testing.T, text string) []int {
	t.Helper()
	var all []int
	for _, field := range strings.Fields(text) {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// The server flushes nothing at commits: what was acknowledged is in a copy of its files because the hold saw to it.
func TestMariaDBQuiesce(t *testing.T) {
	source := mariadb.Need(t)
	mariadbMoney(t, source, "InnoDB")
	mariadbSQL(t, source, "s0", "create table notes (n int) engine=MyISAM")
	const writers = 4
	acknowledged, _ := mariadbWriters(t, source, writers)
	committed := func(s *mariadb.Server) []int {
		var text strings.Builder
		for writer := range writers {
			var logs []string
			for _, schema := range mariadbSchemas {
				logs = append(logs, fmt.Sprintf("select seq from %s.log where writer = %d", schema, writer))
			}
			fmt.Fprintf(&text, "select max(seq) from (%s) all_logs;", strings.Join(logs, " union "))
		}
		return numbers(t, mariadbSQL(t, s, "", text.String()))
	}
	q := quiet{
		server: mariadbServer(t, source, nil), dir: source.Dir, data: source.Data(), acknowledged: acknowledged,
		committed: func() []int { return committed(source) },
		waiting: func() int {
			return numbers(t, mariadbSQL(t, source, "", "select count(*) from information_schema.processlist where state like '%backup lock%'"))[0]
		},
		process: func() int { return numbers(t, read(t, filepath.Join(source.Dir, "pid")))[0] },
		restored: func(copied string) []int {
			target := mariadb.Blank(t)
			if err := errors.Join(os.Rename(copied, target.Data()), target.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
			return committed(target)
		},
	}
	q.holds(t)
	t.Run("tables without transactions, and new ones", func(t *testing.T) {
		hold := q.begin(t, time.Minute)
		for _, statement := range []string{"insert into notes values (1)", "create table more (n int)"} {
			if _, err := source.SQL(t.Context(), "s0", "set lock_wait_timeout = 0; "+statement); err == nil {
				t.Error("it did not wait: ", statement)
			}
		}
		if _, err := hold.Release(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a statement that does not end", func(t *testing.T) {
		client, err := source.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Ask("lock tables s0.notes write; select 'locked';"); err != nil {
			t.Fatal(err)
		}
		if _, err := q.server.Quiesce(t.Context(), time.Second); fault.KindOf(err) != fault.Busy {
			t.Error(err)
		}
		q.goOn(t)
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
}

// postgresWriters write in two databases; the last one makes tables.
func postgresWriters(t *testing.T, s *postgres.Server) (acknowledged func() []int, committed func(*postgres.Server) []int) {
	t.Helper()
	s.Must(t, "postgres", "create table log (writer int, seq int); create table balance (n int); insert into balance values (0)")
	s.Must(t, "postgres", "create database shop")
	s.Must(t, "shop", "create table log (writer int, seq int); create table balance (n int) ; insert into balance values (0)")
	write := []func(seq int) (db, statements string){
		func(seq int) (string, string) {
			return "postgres", fmt.Sprintf("begin; update balance set n = n + 1; insert into log values (0, %d); commit", seq)
		},
		func(seq int) (string, string) {
			return "postgres", fmt.Sprintf("begin; insert into log values (1, %d); update balance set n = n + 1; commit", seq)
		},
		func(seq int) (string, string) { return "shop", fmt.Sprintf("insert into log values (2, %d)", seq) },
		func(seq int) (string, string) { return "shop", fmt.Sprintf("create table t_%d ()", seq) },
	}
	counts := make([]atomic.Int64, len(write))
	ctx, cancel := context.WithCancel(t.Context())
	var writers errgroup.Group
	for i := range write {
		writers.Go(func() error {
			for seq := 1; ctx.Err() == nil; seq++ {
				db, statements := write[i](seq)
				if _, err := s.SQL(t.Context(), db, statements); err != nil {
					return err
				}
				counts[i].Store(int64(seq))
			}
			return nil
		})
	}
	t.Cleanup(func() {
		cancel()
		if err := writers.Wait(); err != nil && !errors.Is(t.Context().Err(), context.Canceled) {
			t.Error(err)
		}
	})
	acknowledged = func() []int {
		var all []int
		for i := range counts {
			all = append(all, int(counts[i].Load()))
		}
		return all
	}
	return acknowledged, func(s *postgres.Server) []int {
		return numbers(t, s.Must(t, "postgres", "select count(*) from log group by writer order by writer")+"\n"+
			s.Must(t, "shop", "select count(*) from log union all select count(*) from pg_class where relname ~ '^t_'"))
	}
}

// The server flushes nothing at commits.
func TestPostgreSQLQuiesce(t *testing.T) {
	source := postgres.Need(t, "synchronous_commit = off", "wal_writer_delay = 10s")
	acknowledged, committed := postgresWriters(t, source)
	q := quiet{
		server: postgresServer(t, source, nil), dir: source.Dir, data: source.Data(), acknowledged: acknowledged,
		committed: func() []int { return committed(source) },
		waiting: func() int {
			return numbers(t, source.Must(t, "postgres", "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"))[0]
		},
		process: func() int {
			line, _, _ := strings.Cut(read(t, filepath.Join(source.Data(), "postmaster.pid")), "\n")
			return numbers(t, line)[0]
		},
		restored: func(copied string) []int {
			target := postgres.Blank(t)
			if err := errors.Join(os.Remove(filepath.Join(copied, "postmaster.pid")), os.Rename(copied, target.Data()), target.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
			return committed(target)
		},
	}
	q.holds(t)
	t.Run("a transaction that does not end", func(t *testing.T) {
		source.Must(t, "shop", "create table slow (n int)")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = source.SQL(ctx, "shop", "begin; insert into slow values (1); select pg_sleep(600)") // it is given up
		}()
		await(t, "it has written", func() bool {
			return source.Must(t, "shop", "select count(*) from pg_locks where relation = 'slow'::regclass and mode = 'RowExclusiveLock'") == "1"
		})
		if _, err := q.server.Quiesce(t.Context(), 2*time.Second); fault.KindOf(err) != fault.Busy {
			t.Error(err)
		}
		q.goOn(t)
		cancel()
		<-ended
	})
}
