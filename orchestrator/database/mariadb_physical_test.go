package database_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/mariadb"
)

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
