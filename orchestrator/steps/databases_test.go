package steps

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/postgres"
)

// databaseDesk is a cluster with one database, whose tools run here, and its recovery points.
type databaseDesk struct {
	run *orchestrator.Run
}

func newDatabaseDesk(t *testing.T, source *postgres.Server) *databaseDesk {
	t.Helper()
	run, _ := etcdTestRun(t)
	run.Now = time.Now
	d := &databaseDesk{run: run}
	d.at(t, source, nil)
	return d
}

// at has the Cluster document name another server.
func (d *databaseDesk) at(t *testing.T, s *postgres.Server, settings map[string]string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(postgres.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"host": s.Socket}
	for name, value := range settings {
		all[name] = value
	}
	d.run.Cluster.Spec.Databases = []plans.Database{{
		Name: "bank/ledger", Engine: "postgresql", Settings: all, Secrets: map[string]plans.DatabaseSecret{"password": {File: file}},
	}}
}

// play does a capture's steps for the database and seals what they left.
func (d *databaseDesk) play(t *testing.T, steps map[string]orchestrator.Step, change func(kind string, receipt orchestrator.Receipt) orchestrator.Receipt) string {
	t.Helper()
	source := receiptsOf{}
	d.run.ID += "x"
	d.run.Item, d.run.Point = "bank/ledger", ""
	for kind, step := range steps {
		if err := step.Check(t.Context(), d.run); err != nil {
			t.Fatal(err)
		}
		receipt, err := step.Do(t.Context(), d.run, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := step.Verify(t.Context(), d.run, receipt); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			receipt = change(kind, receipt)
		}
		source[kind] = receipt
	}
	raw, err := (&SealRecoveryPoint{}).seal(t.Context(), d.run, source)
	if err != nil {
		t.Fatal(err)
	}
	var sealed sealReceipt
	if err := json.Unmarshal(raw, &sealed); err != nil {
		t.Fatal(err)
	}
	return sealed.Point
}

// receiptsOf are the receipts of one item, by the kind of step.
type receiptsOf map[string]orchestrator.Receipt

func (r receiptsOf) ReceiptOf(string, any) (bool, error) { return false, nil }

func (r receiptsOf) ItemReceipts(kind string) map[string]orchestrator.Receipt {
	if receipt := r[kind]; receipt != nil {
		return map[string]orchestrator.Receipt{"bank/ledger": receipt}
	}
	return nil
}

// recover does one step of a recovery.
func (d *databaseDesk) recover(ctx context.Context, point string, step orchestrator.Step) error {
	d.run.Item, d.run.Point = "bank/ledger", point
	if err := step.Check(ctx, d.run); err != nil {
		return err
	}
	receipt, err := step.Do(ctx, d.run, nil)
	if err != nil {
		return err
	}
	return step.Verify(ctx, d.run, receipt)
}

func TestDatabasesComeBack(t *testing.T) {
	source, target := postgres.Need(t), postgres.Need(t)
	d := newDatabaseDesk(t, source)
	writing := postgres.StartTransfers(t, source)
	before := writing.Past(t, 20)
	point := d.play(t, map[string]orchestrator.Step{"backup-databases": &BackupDatabases{}}, nil)
	after := writing.Stop(t)

	d.at(t, target, nil)
	if err := d.recover(t.Context(), point, &RestoreDatabases{}); err != nil {
		t.Fatal(err)
	}
	postgres.Restored(t, target, before, after)
	verify := &VerifyDatabases{Invariants: []Invariant{{
		Database: "bank/ledger", Query: "select sum(balance) as sum, count(*) as accounts from account", Expect: "rows[0].sum == 10000000 && rows[0].accounts == 10000",
	}}}
	if err := d.recover(t.Context(), point, verify); err != nil {
		t.Error(err)
	}
	target.Must(t, "postgres", "update account set balance = balance + 1 where id = 77")
	err := d.recover(t.Context(), point, verify)
	if !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "public.account of postgres has other content") {
		t.Errorf("one changed row: %v", err)
	}
	err = d.recover(t.Context(), point, &VerifyDatabases{Ignore: []string{"public.account"}, Invariants: verify.Invariants})
	if !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "does not hold") {
		t.Errorf("a broken invariant: %v", err)
	}
	if err := d.recover(t.Context(), point, &RestoreDatabases{}); !fault.Is(err, fault.Exists) {
		t.Errorf("a restore over data: %v", err)
	}
	if err := d.recover(t.Context(), point, &RestoreDatabases{OnExisting: ReplaceExisting}); err != nil {
		t.Error(err)
	}
	if err := d.recover(t.Context(), point, verify); err != nil {
		t.Error(err)
	}
}

// TestDatabasesRollForward restores to a moment between recovery points: the base comes from one, the logs from
// the newest.
func TestDatabasesRollForward(t *testing.T) {
	source := postgres.Need(t)
	d := newDatabaseDesk(t, source)
	archive := func() map[string]orchestrator.Step {
		return map[string]orchestrator.Step{"archive-logs": &ArchiveLogs{}}
	}
	d.play(t, archive(), nil)
	writing := postgres.StartTransfers(t, source)
	writing.Past(t, 10)
	base := d.play(t, map[string]orchestrator.Step{"backup-databases": &BackupDatabases{Mode: "physical"}, "archive-logs": &ArchiveLogs{}}, nil)
	least := writing.Past(t, 10)
	at := source.Must(t, "postgres", `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`)
	most := writing.Past(t, 2)
	d.play(t, archive(), nil)
	writing.Past(t, 10)
	last := writing.Stop(t)
	newest := d.play(t, archive(), nil)

	restore := func(until database.Until, point string) (*postgres.Server, error) {
		target := postgres.Blank(t)
		d.at(t, target, map[string]string{"data": target.Data()})
		if err := d.recover(t.Context(), point, &RestoreDatabases{Until: until}); err != nil {
			return target, err
		}
		return target, target.Start(t.Context())
	}
	for name, want := range map[string]struct {
		until       database.Until
		least, most int
	}{
		"time": {database.Until{Time: at}, least, most},
		"end":  {database.Until{End: true}, last, last},
	} {
		target, err := restore(want.until, newest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		postgres.Restored(t, target, want.least, want.most)
	}
	_, err := restore(database.Until{Time: "2020-01-01T00:00:00Z"}, newest)
	wantFault(t, err, fault.NotFound, "had ended before the target")
	_, err = restore(database.Until{LSN: "FF/0"}, newest)
	wantFault(t, err, fault.NotFound, "the archived logs end at")
	_, err = restore(database.Until{End: true, Name: "x"}, newest)
	wantFault(t, err, fault.Invalid, "one of time, lsn, name and end")

	// A point whose logs lack one file: refused before anything is touched.
	d.at(t, source, nil)
	source.Must(t, "postgres", "create table more as select generate_series(1, 1000)")
	gapped := d.play(t, archive(), func(_ string, receipt orchestrator.Receipt) orchestrator.Receipt {
		return withoutLog(t, d, receipt, base)
	})
	target, err := restore(database.Until{End: true}, gapped)
	wantFault(t, err, fault.NotFound, "the archived logs have a gap")
	if _, err := os.Stat(target.Data()); !os.IsNotExist(err) {
		t.Errorf("the data folder was touched: %v", err)
	}

	// A server that has lost its log: the gap is found, and told.
	d.at(t, source, nil)
	source.Must(t, "postgres", "select pg_drop_replication_slot('muster')")
	for n := 0; !lostLog(t, source, d); n++ {
		if n == 20 {
			t.Fatal("the server keeps its log although nobody asks for it")
		}
		source.Must(t, "postgres", "create table t (i int)")
		source.Must(t, "postgres", "drop table t; select pg_switch_wal()")
		source.Must(t, "postgres", "checkpoint")
	}
	d.run.Item, d.run.Point = "bank/ledger", ""
	_, err = (&ArchiveLogs{OnGap: GapFail}).Do(t.Context(), d.run, nil)
	wantFault(t, err, fault.NotFound, "is gone from the server")
	closed := d.play(t, map[string]orchestrator.Step{"archive-logs": &ArchiveLogs{OnGap: GapBackUp}}, nil)
	if found := d.run.Progress.(*etcdTestProgress).findings; len(found) != 1 || found[0].Severity != orchestrator.Lost {
		t.Errorf("findings %v", found)
	}
	_, err = restore(database.Until{End: true}, closed)
	wantFault(t, err, fault.NotFound, "the archived logs end at") // the next pass has what makes the base whole
	d.at(t, source, nil)
	source.Must(t, "postgres", "insert into transfer (n) values (1000000)")
	newest = d.play(t, archive(), nil)
	target, err = restore(database.Until{End: true}, newest)
	if err != nil {
		t.Fatalf("after a new base, %s: %v", closed, err)
	}
	if n := target.Must(t, "postgres", "select count(*) from transfer where n = 1000000"); n != "1" {
		t.Error("what came after the new base is not there")
	}

	// Once the first base is gone, nobody needs the logs before the second.
	point, err := d.run.Repository.Point(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.run.Repository.Delete(t.Context(), point); err != nil {
		t.Fatal(err)
	}
	d.at(t, source, nil)
	d.play(t, archive(), nil)
	sealed, err := logsBefore(t.Context(), d.run, "bank/ledger")
	if err != nil {
		t.Fatal(err)
	}
	needed, err := neededFrom(t.Context(), d.run, "bank/ledger")
	if err != nil || needed == "" || len(sealed.layer.Logs) == 0 || sealed.layer.Logs[0].To <= needed || sealed.layer.Logs[0].From > needed {
		t.Errorf("logs are needed from %s, and begin with %+v, %v", needed, sealed.layer.Logs, err)
	}
}

// lostLog reports whether the server lacks the file that comes after the sealed ones.
func lostLog(t *testing.T, source *postgres.Server, d *databaseDesk) bool {
	t.Helper()
	sealed, err := logsBefore(t.Context(), d.run, "bank/ledger")
	if err != nil {
		t.Fatal(err)
	}
	oldest := source.Must(t, "postgres", "select min(name) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'")
	newest := ""
	for _, log := range sealed.layer.Logs {
		if log.From != "" {
			newest = max(newest, filepath.Base(log.Path))
		}
	}
	// Not the one that follows, which is whole.
	number := func(name string) int64 {
		n, err := strconv.ParseInt(name[16:], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return oldest[:16] == newest[:16] && number(oldest) > number(newest)+1
}

// withoutLog leaves the file in the middle of the logs after a base out of a receipt.
func withoutLog(t *testing.T, d *databaseDesk, receipt orchestrator.Receipt, base string) orchestrator.Receipt {
	t.Helper()
	point, err := d.run.Repository.Point(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := d.run.Repository.Manifest(t.Context(), point)
	if err != nil {
		t.Fatal(err)
	}
	var r logsReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		t.Fatal(err)
	}
	var kept []repository.DatabaseLog
	left := false
	for _, log := range r.Layer.Logs {
		if !left && log.From > manifest.Databases[0].Facts["to"] {
			left = true
			continue
		}
		kept = append(kept, log)
	}
	if !left {
		t.Fatal("no log after the base")
	}
	r.Layer.Logs = kept
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
