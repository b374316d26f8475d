package database_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/mariadb"
)

// freePort is one that nobody listened at a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	return listening.Addr().(*net.TCPAddr).Port
}

// mariadbLogged counts the transactions of mariadbWriters that are in all of their schemas, of which none is in one
// alone.
func mariadbLogged(t *testing.T, s *mariadb.Server) int {
	t.Helper()
	var logs []string
	for _, schema := range mariadbSchemas {
		logs = append(logs, "select writer, seq from "+schema+".log")
	}
	found := mariadbSQL(t, s, "", "select count(*), coalesce(min(n), 2), coalesce(max(n), 2) from (select count(*) as n from ("+strings.Join(logs, " union all ")+") l group by writer, seq) c")
	var count, least, most int
	if _, err := fmt.Sscan(found, &count, &least, &most); err != nil {
		t.Fatal(found, err)
	}
	if least != 2 || most != 2 {
		t.Errorf("a transaction is in %d to %d schemas", least, most)
	}
	return count
}

func mariadbBackup(t *testing.T, server *database.Server, mode string, held func()) (database.Backup, database.RestoreConfig) {
	t.Helper()
	problems, err := server.Check(t.Context(), mode)
	if err := errors.Join(err, server.Refused("check", problems)); err != nil {
		t.Fatal(err)
	}
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Mode: mode, Store: store, Progress: whenHeld{call: held}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return backup, restoreOf(store, backup)
}

// A replica's backup tells where it stands in its primary's log.
func TestMariaDBReplica(t *testing.T) {
	port := freePort(t)
	primary := mariadb.Need(t, "--skip-networking=0", "--bind-address=127.0.0.1", fmt.Sprint("--port=", port))
	replica := mariadb.Need(t, "--server-id=2", "--read-only")
	target := mariadb.Need(t)
	mariadbMoney(t, primary, "InnoDB")
	mariadbSQL(t, primary, "", "create user replica@localhost identified by 'x'; grant replication slave on *.* to replica@localhost")
	start := mariadbSQL(t, primary, "", "select @@gtid_binlog_pos")
	mariadbSQL(t, replica, "", fmt.Sprintf("change master to master_host = '127.0.0.1', master_port = %d, master_user = 'replica', master_password = 'x', master_use_gtid = slave_pos; start slave", port))
	if in := mariadbSQL(t, replica, "", "select master_gtid_wait('"+start+"', 60)"); in != "0" {
		t.Fatal(mariadbSQL(t, replica, "", "show all slaves status"))
	}
	_, stop := mariadbWriters(t, primary, 2)
	for from := start; mariadbSQL(t, replica, "", "select @@gtid_slave_pos") == from; { // it follows
		continue
	}
	server := mariadbServer(t, replica, nil)
	backup, restore := mariadbBackup(t, server, "logical", func() {})
	physical, _ := mariadbBackup(t, server, "physical", func() {})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := mariadbServer(t, target, nil).Restore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	t.Log(backup.Facts, physical.Facts)
	number := func(gtid string) int {
		sequence, is := strings.CutPrefix(gtid, "0-1-")
		if !is {
			t.Fatalf("%q is no position of the primary's", gtid)
		}
		return atoi(t, sequence)
	}
	if at, found := number(backup.Facts["gtidReplica"])-number(start), mariadbLogged(t, target); at != found || at == 0 {
		t.Errorf("%d transactions came back, and the position is after %d", found, at)
	}
	if number(physical.Facts["gtidReplica"]) < number(backup.Facts["gtidReplica"]) {
		t.Error("the physical backup's position is before the logical one's")
	}
	_, err := server.ArchiveLogs(t.Context(), database.ArchiveConfig{Store: newRepository(t), Progress: progress{}})
	if !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "log_slave_updates") {
		t.Errorf("a log without what comes from the primary: %v", err)
	}
}

// The read lock takes a Galera node out of step, so that the cluster does not wait for it, and back.
func TestMariaDBGalera(t *testing.T) {
	port := freePort(t)
	node := mariadb.Need(t, "--wsrep-on=ON", "--wsrep-provider=/usr/lib/galera/libgalera_smm.so", "--wsrep-cluster-address=gcomm://", "--binlog-format=ROW", "--log-slave-updates",
		"--wsrep-node-address=127.0.0.1", fmt.Sprintf("--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:%d; gcache.size=16M", port))
	mariadbMoney(t, node, "InnoDB")
	state := func() string {
		return mariadbSQL(t, node, "", "select variable_value from information_schema.global_status where variable_name = 'wsrep_local_state_comment'")
	}
	server := mariadbServer(t, node, nil)
	mariadbSQL(t, node, "", "set global wsrep_desync = on")
	for _, mode := range []string{"logical", "physical"} {
		problems, err := server.Check(t.Context(), mode)
		if err != nil || len(problems) != 1 || problems[0].Kind != "busy" || !strings.Contains(problems[0].Text, "Donor/Desynced") {
			t.Errorf("%s of a node that is not in step: %v, %v", mode, problems, err)
		}
	}
	mariadbSQL(t, node, "", "set global wsrep_desync = off")
	for state() != "Synced" {
		continue
	}
	for _, mode := range []string{"logical", "physical"} {
		t.Run(mode, func(t *testing.T) {
			acknowledged, stop := mariadbWriters(t, node, 2)
			for acknowledged()[0] == 0 {
				continue
			}
			held := ""
			var atReady []int
			backup, restore := mariadbBackup(t, server, mode, func() { held, atReady = state(), acknowledged() })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			t.Log(backup.Facts, held, atReady)
			for state() != "Synced" {
				continue
			}
			target := mariadb.Blank(t)
			if mode == "logical" {
				if held != "Donor/Desynced" {
					t.Errorf("while writers wait the node is %s", held)
				}
				target = mariadb.Need(t)
			}
			if err := mariadbServer(t, target, map[string]string{"data": target.Data()}).Restore(t.Context(), restore); err != nil {
				t.Fatal(err)
			}
			if mode == "physical" {
				if err := target.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if found := mariadbLogged(t, target); found < atReady[0]+atReady[1] {
				t.Errorf("%d transactions came back, of %v", found, atReady)
			}
			mariadbSQL(t, node, "", "truncate s0.log; truncate s1.log; truncate s2.log; truncate s3.log; truncate s4.log; truncate s5.log")
		})
	}
}
