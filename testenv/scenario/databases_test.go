package scenario

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/postgres"
	"github.com/musterdr/muster/testenv/workload"
)

// TestDatabases loses a cluster whose pod was a bank's database, data and all, while money moved, and brings it
// back; nothing secret shows. Then a person brings the bank back by hand, into another server, without muster.
func TestDatabases(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	s := volumeScenario(t, testenv.Config{Name: "bank", ControlPlanes: 1, Images: []string{testenv.PostgresImage}}, "")
	endWatch := WatchProcesses(t.Context())
	members := s.Members()
	must(t, s.OpenBank(t.Context()))
	must(t, s.Init(t.Context()))
	must(t, s.readAdministrator())

	must(t, s.StartBankWriter(t.Context()))
	began := s.bank.acknowledged(time.Now())
	must(t, s.captureBank(t.Context()))
	must(t, s.bank.await(t.Context(), 50)) // the loss costs something
	if by := s.bank.acknowledged(s.banked.Taken); by < began {
		t.Errorf("the backup's instant is after %d transactions, the capture began after %d", by, began)
	}

	must(t, s.Destroy(t.Context()))
	must(t, s.Blank(t.Context(), members))
	report, err := s.Rebuild(t.Context(), s.Lab, "", targetsOf(members)...)
	must(t, err)
	must(t, s.Lab.FetchKubeconfig(t.Context(), members[0]))
	proofs, loss, err := s.ProveBank(t.Context())
	check(t, report, proofs, err)
	t.Logf("RPO %.1f s, RTO %.1f s; the bank: RPO %.1f s, %d of %d transactions", report.RPO, report.RTO, loss.RPO, loss.Restored, loss.Acknowledged)
	for _, step := range report.Steps {
		t.Logf("%-16s %-10s %5.1f s", step.ID, step.State, step.Seconds)
	}
	compared := false
	for _, layer := range report.Layers {
		t.Logf("%-22s %d of %d %s %s", layer.Layer, layer.Done, layer.Expected, layer.Unit, layer.Text)
		compared = compared || layer.Layer == "databases compared" && layer.Done == int64(s.banked.Tables) && layer.Done == layer.Expected
	}
	if !compared {
		t.Errorf("not all of %d tables were compared", s.banked.Tables)
	}
	if loss.Restored >= loss.Acknowledged {
		t.Errorf("%d transactions are back, %d were acknowledged: the writer did not outlive the capture", loss.Restored, loss.Acknowledged)
	}

	found, err := s.FindSecrets(endWatch())
	must(t, err)
	for _, place := range found {
		t.Error("a secret shows: " + place)
	}
	s.bankByHand(t, loss.Restored)
}

// bankByHand follows docs/break-glass.md into an empty server on this host, with kopia and PostgreSQL's tools.
func (s *Scenario) bankByHand(t *testing.T, transactions int) {
	t.Helper()
	tools, err := testenv.StockTools(t.Context(), s.say)
	must(t, err)
	server := postgres.Need(t)
	var root []struct {
		Root string `json:"root"`
	}
	must(t, s.query(t.Context(), &root, "points", "list", "--output", "json"))
	document, err := os.ReadFile("../../docs/break-glass.md")
	must(t, err)
	script := strings.NewReplacer(
		"/etc/muster/muster.key", s.path("muster.key"), "/srv/backup", s.path("repository"), "k6b51fd07208311ce12d3050637384e1e", root[0].Root,
		"shop/ledger", bankName,
	).Replace(section(t, string(document), "### Databases"))
	s.say("bringing the bank back by hand")
	if err := os.RemoveAll(s.path("byhand")); err != nil {
		t.Fatal(err)
	}
	must(t, os.MkdirAll(s.path("byhand"), 0o700))
	c := s.shell(t, script)
	c.Env = []string{"HOME=" + s.path("byhand"), "PATH=" + postgres.Programs + ":" + tools + ":/usr/bin:/bin",
		"PGHOST=" + server.Socket, "PGUSER=postgres", "PGPASSWORD=" + postgres.Password}
	c.Dir = s.path("byhand")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("by hand: %v\n%s", err, lastLines(string(out), 20))
	}
	// roles.sql gave the role postgres the password that it had.
	digests, err := os.ReadFile(filepath.Join(s.path("byhand"), "point", "databases", bankName, "digests.tsv"))
	must(t, err)
	if compared := bytes.Count(out, []byte("equal\t")); compared != bytes.Count(digests, []byte("\n")) || compared != s.banked.Tables || bytes.Contains(out, []byte("DIFFERENT")) {
		t.Errorf("by hand, %d of %d tables are equal:\n%s", compared, s.banked.Tables, out)
	}
	rows := s.shell(t, "psql -XAtqw -d "+workload.BankDatabase+" <<'SQL'\n"+readLedgerOf+"SQL\n")
	rows.Env = append(slices.Clip(c.Env), "PGUSER="+workload.BankRole, "PGPASSWORD="+workload.BankPassword(workload.BankClerk))
	text, err := rows.Output()
	must(t, err)
	if got := rowsDigest(text); got != ledgerOf(transactions) {
		t.Errorf("by hand, the digest of all rows is %s, want %s", got, ledgerOf(transactions))
	}
}

func (s *Scenario) shell(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sh", "-eu")
	c.Dir, c.Stdin = s.config.Dir, strings.NewReader(script)
	return c
}

// section is the first shell block under a heading of a document.
func section(t *testing.T, document, heading string) string {
	t.Helper()
	found := regexp.MustCompile(`(?s)\n` + regexp.QuoteMeta(heading) + "\n.*?\n```sh\n(.*?)```\n").FindStringSubmatch(document)
	if found == nil {
		t.Fatal(fmt.Errorf("no shell block under %q", heading))
	}
	return found[1]
}
