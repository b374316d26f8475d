package database_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/mariadb"
)

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
	one := map[int]string{} // part of each phase
	for _, part := range whole.Parts {
		one[part.Phase] = part.Path
	}
	for _, path := range one {
		for name, cut := range map[string]func([]byte) []byte{
			"last line":  func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("-- Dump completed"))] },
			"first half": func(b []byte) []byte { return b[:bytes.LastIndexByte(b[:len(b)/2], '\n')+1] },
			"nothing":    func([]byte) []byte { return nil },
		} {
			config := whole
			config.Open = func(ctx context.Context, p database.Part) (io.ReadCloser, error) {
				from, err := whole.Open(ctx, p)
				if err != nil || p.Path != path {
					return from, err
				}
				defer from.Close()
				content, err := io.ReadAll(from)
				return io.NopCloser(bytes.NewReader(cut(content))), err
			}
			err := into.Restore(t.Context(), config) // of one token: each is a repeat of the one before
			if err == nil || name != "first half" && fault.KindOf(err) != fault.Corrupt {
				t.Errorf("%s without %s: %v", path, name, err)
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

// A full disk is told as such, by the server that a logical backup goes into and for a data folder.
func TestMariaDBFullDisk(t *testing.T) {
	source := mariadb.Need(t)
	mariadbMoney(t, source, "InnoDB")
	small := func(mode, size string, ready func(*mariadb.Server)) {
		t.Helper()
		store, target := newRepository(t), mariadb.Blank(t)
		backup, err := mariadbServer(t, source, nil).Backup(t.Context(), database.BackupConfig{Mode: mode, Store: store, Progress: progress{}, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		mountMemory(t, target.Data(), size)
		ready(target)
		err = mariadbServer(t, target, map[string]string{"data": target.Data()}).Restore(t.Context(), restoreOf(store, backup))
		if fault.KindOf(err) != fault.NoSpace {
			t.Errorf("%s: %v", mode, err)
		}
		if err := target.Stop(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	small("physical", "8m", func(*mariadb.Server) {})
	small("logical", "160m", func(target *mariadb.Server) {
		if err := target.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := target.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var disk syscall.Statfs_t
		if err := syscall.Statfs(target.Data(), &disk); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(target.Data(), "filler"), make([]byte, int64(disk.Bavail)*disk.Bsize-4<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

// mountMemory puts a filesystem of a size over a folder, for the server's owner.
func mountMemory(t *testing.T, folder, size string) {
	t.Helper()
	for _, command := range [][]string{{"mkdir", folder}, {"mount", "-t", "tmpfs", "-o", "size=" + size, "tmpfs", folder}, {"chown", "mysql:", folder}} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", folder).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
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
