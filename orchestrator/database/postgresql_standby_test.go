package database_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/postgres"
)

// TestPostgreSQLStandby backs up a standby in both modes while its primary is written to; a restore refuses it.
func TestPostgreSQLStandby(t *testing.T) {
	primary := postgres.Need(t)
	standby := postgres.Standby(t, primary)
	writing := postgres.StartTransfers(t, primary)
	reached := writing.Past(t, 20)
	for standby.Must(t, "postgres", "select count(*) from pg_class where relname = 'transfer'") != "1" || standby.Must(t, "postgres", "select count(*) from transfer") == "0" {
		writing.Past(t, 1)
	}
	server, store := postgresServer(t, standby, nil), newRepository(t)
	found, err := server.Check(t.Context(), "")
	if err != nil || len(found) != 1 || found[0].Subject != "standby" || found[0].Kind != "info" {
		t.Errorf("%v, %v", found, err)
	}
	backups := map[string]database.Backup{}
	least, most := map[string]int{}, map[string]int{}
	for _, mode := range []string{"logical", "physical"} {
		least[mode], err = strconv.Atoi(standby.Must(t, "postgres", "select max(n) from transfer"))
		if err != nil {
			t.Fatal(err)
		}
		backups[mode], err = server.Backup(t.Context(), database.BackupConfig{Mode: mode, Store: store, Progress: progress{}, Now: time.Now, Digests: true})
		if err != nil {
			t.Fatal(mode, err)
		}
		most[mode] = writing.Past(t, 1)
	}
	writing.Stop(t)
	if least["logical"] == 0 || reached == 0 || backups["logical"].Facts["standby"] != "t" {
		t.Errorf("facts %v", backups["logical"].Facts)
	}

	target := postgres.Need(t)
	restore := restoreOf(store, backups["logical"])
	if err := postgresServer(t, target, nil).Restore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	postgres.Restored(t, target, least["logical"], most["logical"])
	blank := postgres.Blank(t)
	if err := postgresServer(t, blank, map[string]string{"data": blank.Data()}).Restore(t.Context(), restoreOf(store, backups["physical"])); err != nil {
		t.Fatal(err)
	}
	if err := blank.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	postgres.Restored(t, blank, least["physical"], most["physical"])

	restore.Replace = true
	if err := server.Restore(t.Context(), restore); !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "it is a standby") {
		t.Error(err)
	}
	restore.Facts["major"] = "99"
	if err := postgresServer(t, target, nil).Restore(t.Context(), restore); !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "older than the backup's version, 99") {
		t.Error(err)
	}
}
