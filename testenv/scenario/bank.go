package scenario

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// bank is a database in a pod, and a writer that moves money between its accounts all the time. It judges by
// what it wrote itself: the content of every table follows from the number of transactions.
type bank struct {
	transaction func(n int) string // statements in which money moves, and that print n
	pause       time.Duration      // after each, of writers whose transactions cost much
	session     *exec.Cmd
	input       io.WriteCloser
	done        chan struct{}

	mu    sync.Mutex
	acked []time.Time // when transaction n+1 was acknowledged
	sent  int
	err   error
}

const (
	bankName     = workload.BankNamespace + "/" + workload.BankServer // what muster calls it
	bankAccounts = 10_000
	bankOpening  = 1_000 // of each account
	bankTotal    = bankAccounts * bankOpening
)

// bankEntry is the database's entry in the Cluster document.
const bankEntry = `  databases:
    - name: ` + bankName + `
      engine: postgresql
      pod: {namespace: ` + workload.BankNamespace + `, selector: app=` + workload.BankServer + `}
      settings: {host: 127.0.0.1}
      secrets: {password: {secret: {namespace: ` + workload.BankNamespace + `, name: ` + workload.BankServer + `, key: ` + workload.BankAdmin + `}}}
`

// openBank is what the administrator of the server runs once. The passwords stand in the pod's environment.
const openBank = `\getenv clerk CLERK_PASSWORD
create role clerk login password :'clerk';
create database accounts owner clerk;
\connect accounts
set role clerk;
create table account (id int primary key, balance bigint not null check (balance > -1000000));
create table log (number bigint primary key, source int not null references account, target int not null references account,
  amount int not null, at timestamptz not null default now(), entry bigserial);
create view overdrawn as select * from account where balance < 0;
insert into account select n, 1000 from generate_series(0, 9999) n;
\echo open
`

// transfer is what transaction n moves.
func transfer(n int) (source, target, amount int) {
	source = n * 7919 % bankAccounts
	return source, (source + 1 + n%(bankAccounts-1)) % bankAccounts, 1 + n%97
}

// OpenBank makes the server, the database and its accounts.
func (s *Scenario) OpenBank(ctx context.Context) error {
	client, err := kubeClient(s.Lab)
	if err != nil {
		return err
	}
	s.say("opening a bank with %d accounts in PostgreSQL", bankAccounts)
	if err := workload.FillBank(ctx, client, testenv.PostgresImage); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := workload.Ready(ready, client, time.Time{}); err != nil {
		return err
	}
	s.bank = &bank{transaction: postgresTransaction}
	s.Databases = bankEntry
	out, err := s.bankSQL(ctx, "postgres", "postgres", openBank)
	if err == nil && out != "open" {
		err = fmt.Errorf("the bank says %q", out)
	}
	return err
}

// bankCommand is psql in the bank's pod, which reads statements from its input. The role gives its password.
func (s *Scenario) bankCommand(ctx context.Context, role, database string) *exec.Cmd {
	password := map[string]string{"postgres": "POSTGRES_PASSWORD", workload.BankRole: "CLERK_PASSWORD"}[role]
	script := `PGPASSWORD=$` + password + ` exec psql -XAtqw -v ON_ERROR_STOP=1 -h 127.0.0.1 -U ` + role + ` -d ` + database
	return s.Lab.KubectlCommand(ctx, "exec", "--stdin", "--namespace", workload.BankNamespace, workload.BankPod, "--", "sh", "-c", script)
}

func (s *Scenario) bankSQL(ctx context.Context, role, database, statements string) (string, error) {
	var out, diagnostics bytes.Buffer
	c := s.bankCommand(ctx, role, database)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(statements), &out, &diagnostics
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("ask the bank: %w: %s", err, diagnostics.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// postgresTransaction is for psql.
func postgresTransaction(n int) string {
	source, target, amount := transfer(n)
	return fmt.Sprintf(`begin;
update account set balance = balance - %[3]d where id = %[1]d;
update account set balance = balance + %[3]d where id = %[2]d;
insert into log values (%[4]d, %[1]d, %[2]d, %[3]d);
commit;
\echo %[4]d
`, source, target, amount, n)
}

// StartBankWriter moves money until the server is gone.
func (s *Scenario) StartBankWriter(ctx context.Context) error {
	return s.bank.start(ctx, s.bankCommand(ctx, workload.BankRole, workload.BankDatabase))
}

// start has a client of the server move money until it ends.
func (b *bank) start(ctx context.Context, client *exec.Cmd) error {
	b.session, b.done = client, make(chan struct{})
	var err error
	if b.input, err = b.session.StdinPipe(); err != nil {
		return err
	}
	out, err := b.session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.session.Start(); err != nil {
		return err
	}
	go func() {
		defer close(b.done)
		err := b.write(bufio.NewReader(out))
		b.mu.Lock()
		b.err = errors.Join(err, b.session.Wait())
		b.mu.Unlock()
	}()
	return b.await(ctx, 100)
}

// write sends one transaction after the other, each when the one before it was acknowledged.
func (b *bank) write(from *bufio.Reader) error {
	for n := 1; ; n++ {
		b.mu.Lock()
		b.sent = n
		b.mu.Unlock()
		_, err := io.WriteString(b.input, b.transaction(n))
		if err != nil {
			return err
		}
		line, err := from.ReadString('\n')
		if err != nil {
			return err
		}
		if line != strconv.Itoa(n)+"\n" {
			return fmt.Errorf("transaction %d is answered by %q", n, line)
		}
		b.mu.Lock()
		b.acked = append(b.acked, time.Now())
		b.mu.Unlock()
		time.Sleep(b.pause)
	}
}

func (b *bank) sentSoFar() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent
}

// acknowledged is how many transactions were acknowledged by a moment.
func (b *bank) acknowledged(by time.Time) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.acked)
	for n > 0 && b.acked[n-1].After(by) {
		n--
	}
	return n
}

// await returns once more transactions were acknowledged.
func (b *bank) await(ctx context.Context, more int) error {
	want := b.acknowledged(time.Now()) + more
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for b.acknowledged(time.Now()) < want {
		select {
		case <-b.done:
			return fmt.Errorf("the bank's writer ended: %w", b.err)
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

// ledgerOf is what the bank's tables hold after a number of transactions.
func ledgerOf(transactions int) (digest string) {
	sum := sha256.New()
	for n := 1; n <= transactions; n++ {
		source, target, amount := transfer(n)
		fmt.Fprintf(sum, "%d|%d|%d|%d\n", n, source, target, amount)
	}
	fmt.Fprint(sum, accountRows(balancesOf(transactions)))
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// balancesOf are those of all accounts after a number of transactions.
func balancesOf(transactions int) []int {
	balances := make([]int, bankAccounts)
	for i := range balances {
		balances[i] = bankOpening
	}
	for n := 1; n <= transactions; n++ {
		source, target, amount := transfer(n)
		balances[source] -= amount
		balances[target] += amount
	}
	return balances
}

func accountRows(balances []int) string {
	var rows strings.Builder
	for id, balance := range balances {
		fmt.Fprintf(&rows, "%d|%d\n", id, balance)
	}
	return rows.String()
}

func rowsDigest(text []byte) string { return fmt.Sprintf("%x", sha256.Sum256(text)) }

// readLedgerOf prints the same of a server.
const readLedgerOf = `select number, source, target, amount from log order by number;
select id, balance from account order by id;
`

// capturedBank is the part of a manifest's database that scenarios read.
type capturedBank struct {
	Name   string            `json:"name"`
	Path   string            `json:"path"`
	Taken  time.Time         `json:"taken"`
	Tables int               `json:"tables"`
	Facts  map[string]string `json:"facts"`

	PointInTime bool `json:"pointInTime"`
}

func (s *Scenario) capturedBank(ctx context.Context) (capturedBank, error) {
	var manifest struct {
		Databases []capturedBank `json:"databases"`
	}
	if err := s.query(ctx, &manifest, "points", "show", s.Point, "--output", "json"); err != nil {
		return capturedBank{}, err
	}
	if len(manifest.Databases) != 1 || manifest.Databases[0].Name != bankName {
		text, _ := json.Marshal(manifest)
		return capturedBank{}, fmt.Errorf("the point's databases: %s", text)
	}
	return manifest.Databases[0], nil
}

// captureBank makes a recovery point of a cluster that holds nothing but the bank.
func (s *Scenario) captureBank(ctx context.Context) error {
	if err := s.Run(ctx, "capture", nil, "run", "capture"); err != nil {
		return err
	}
	var manifest struct {
		ID string `json:"id"`
	}
	if err := s.query(ctx, &manifest, "points", "show", "latest", "--output", "json"); err != nil {
		return err
	}
	s.Point = manifest.ID
	return s.endBankCapture(ctx)
}

// endBankCapture notes how far the writer had come, and what the point says.
func (s *Scenario) endBankCapture(ctx context.Context) error {
	s.bankedMost = s.bank.sentSoFar()
	var err error
	s.banked, err = s.capturedBank(ctx)
	return err
}

// BankLoss tells what the loss of the machines cost, by the bank's own books.
type BankLoss struct {
	Taken        time.Time `json:"taken"`        // the instant that the backup names
	RPO          float64   `json:"rpoSeconds"`   // from that instant until the loss
	Acknowledged int       `json:"acknowledged"` // transactions, until the loss
	Restored     int       `json:"restored"`
}

// ProveBank looks at the restored bank: the same sum, no gap, everything that was acknowledged before the
// backup's instant, nothing that came after it, every row as the writer's own books have it, and a clerk who
// gets in with the old password and goes on.
func (s *Scenario) ProveBank(ctx context.Context) ([]Proof, BankLoss, error) {
	b := s.bank
	<-b.done // its machine is gone
	loss := BankLoss{Taken: s.banked.Taken, RPO: s.Lost.Sub(s.banked.Taken).Seconds(), Acknowledged: b.acknowledged(time.Now())}
	facts, err := s.bankSQL(ctx, workload.BankRole, workload.BankDatabase, "select sum(balance) from account;\nselect count(*), min(number), max(number) from log;\n")
	if err != nil {
		return nil, loss, err
	}
	total, numbers, _ := strings.Cut(facts, "\n")
	count, _, _ := strings.Cut(numbers, "|")
	if loss.Restored, err = strconv.Atoi(count); err != nil {
		return nil, loss, fmt.Errorf("the bank says %q: %w", facts, err)
	}
	rows, err := s.bankSQL(ctx, workload.BankRole, workload.BankDatabase, readLedgerOf)
	if err != nil {
		return nil, loss, err
	}
	least, most := b.acknowledged(loss.Taken), s.bankedMost
	next := loss.Restored + 1
	source, target, amount := transfer(next)
	went, err := s.bankSQL(ctx, workload.BankRole, workload.BankDatabase, fmt.Sprintf("insert into log values (%d, %d, %d, %d) returning number;\n", next, source, target, amount))
	if err != nil {
		return nil, loss, err
	}
	proofs := []Proof{
		equal("the bank: sum of 10,000 accounts", strconv.Itoa(bankTotal), total),
		equal("the bank: transactions have no gap", fmt.Sprintf("%[1]d|1|%[1]d", loss.Restored), numbers),
		{"the bank: acknowledged before the instant", fmt.Sprintf("%d, and none after %d", least, most), count, least > 0 && least <= loss.Restored && loss.Restored <= most},
		equal("the bank: digest of all rows", ledgerOf(loss.Restored), rowsDigest([]byte(rows+"\n"))),
		equal("the bank: the clerk goes on", strconv.Itoa(next), went),
	}
	s.tellProofs(proofs)
	return proofs, loss, nil
}
