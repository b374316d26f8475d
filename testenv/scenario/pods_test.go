package scenario

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// podServer is a server in a pod, with a bank's books.
type podServer struct {
	workload.Server
	at       string // the pod that is asked; empty for the only one
	engine   string
	settings string // of the Cluster document: YAML in one line
	secrets  string // the same; empty for the password of the Secret
	client   string // a script in the pod: reads statements, prints rows, and ends at the first error
	open     string // statements that make the bank
	books    string // statements that print what judge reads
	// judge tells how many transactions the books hold, and what is wrong with them.
	judge func(books []byte) (transactions int, wrong string)
	bank  bank
	tick  time.Duration // of the times in its log
	apart bool          // a backup is of no single moment
}

const podData = "/var/lib/server" // where pods have their volume

func postgresPod() *podServer {
	return &podServer{
		Server: workload.Server{
			Name: "pg", Image: testenv.PostgresImage, Program: "/usr/local/bin/postgres-entrypoint", Password: "POSTGRES_PASSWORD", Env: map[string]string{"PGDATA": podData + "/data"},
			Ready: []string{"pg_isready", "--host=127.0.0.1", "--username=postgres", "--quiet"},
		},
		engine: "postgresql", settings: "{host: 127.0.0.1, data: " + podData + "/data}",
		client: `PGPASSWORD=$POSTGRES_PASSWORD exec psql -XAtqw -v ON_ERROR_STOP=1 -h 127.0.0.1 -U postgres -d postgres`,
		open: `create table account (id int primary key, balance bigint not null);
create table log (number bigint primary key, source int not null, target int not null, amount int not null);
insert into account select n, 1000 from generate_series(0, 9999) n;
create table bulk as select n, md5(random()::text) from generate_series(1, 500000) n;
`,
		books: readBooks, judge: judgeLedger,
		bank: bank{transaction: postgresTransaction, pause: 5 * time.Millisecond},
	}
}

func mariadbPod() *podServer {
	return &podServer{
		Server: workload.Server{
			Name: "maria", Image: testenv.MariaDBImage, Program: "/usr/local/bin/mariadb-entrypoint", Password: "MARIADB_ROOT_PASSWORD", Env: map[string]string{"DATA": podData + "/data"},
			Ready: []string{"sh", "-c", `MYSQL_PWD=$MARIADB_ROOT_PASSWORD mariadb-admin --no-defaults --host=127.0.0.1 --user=root --silent ping`},
		},
		engine: "mariadb", settings: "{host: 127.0.0.1, data: " + podData + "/data}",
		client: `MYSQL_PWD=$MARIADB_ROOT_PASSWORD exec mariadb --no-defaults --batch --raw --skip-column-names --skip-reconnect --unbuffered -h 127.0.0.1 -u root bank`,
		open: `create table account (id int primary key, balance bigint not null);
create table log (number bigint primary key, source int not null, target int not null, amount int not null);
insert into account select seq, 1000 from seq_0_to_9999;
create table bulk as select seq, md5(rand()) from seq_1_to_500000;
`,
		books: readBooks, judge: judgeLedger, tick: time.Second,
		bank: bank{pause: 5 * time.Millisecond, transaction: func(n int) string {
			return strings.Replace(postgresTransaction(n), `\echo `+fmt.Sprint(n), fmt.Sprintf("select %d;", n), 1)
		}},
	}
}

// readBooks prints the same rows of every server that knows SQL.
const readBooks = `select concat_ws('|', number, source, target, amount) from log order by number;
select concat_ws('|', id, balance) from account order by id;
`

// judgeLedger wants the books to be those of a number of transactions, row by row.
func judgeLedger(books []byte) (int, string) {
	n := bytes.Count(books, []byte("\n")) - bankAccounts
	if rowsDigest(books) != ledgerOf(n) {
		return n, fmt.Sprintf("the rows are not those of %d transactions", n)
	}
	return n, ""
}

// mongodbPod has a writer that moves money in three steps, since FerretDB knows no transactions: what comes back is what
// there was after one of them.
func mongodbPod() *podServer {
	return &podServer{
		Server: workload.Server{
			Name: "docs", Image: testenv.MongoDBImage, Program: "/usr/local/bin/mongodb-entrypoint", Password: "UNUSED_PASSWORD", Env: map[string]string{"DATA": podData + "/data"},
			Ready: []string{"bash", "-c", "</dev/tcp/127.0.0.1/27017"}, // a shell of MongoDB's costs half a second
		},
		engine: "mongodb", settings: "{}", secrets: "{}",
		client: "cat >/tmp/bank.js <<'JS'\n" + mongodbBank + "JS\nHOME=/tmp exec mongosh --quiet --norc --nodb /tmp/bank.js",
		open:   "open\n", books: "books\n",
		judge: judgeSteps,
		bank:  bank{transaction: plainTransaction, pause: 50 * time.Millisecond},
	}
}

// mongodbBank reads commands, and transactions, from its input.
const mongodbBank = `
const fs = require('fs'), chunk = Buffer.alloc(65536);
let rest = '';
function next() {
  for (;;) {
    const end = rest.indexOf('\n');
    if (end >= 0) { const line = rest.slice(0, end); rest = rest.slice(end + 1); return line; }
    let n;
    try { n = fs.readSync(0, chunk, 0, chunk.length); } catch (e) { if (e.code !== 'EAGAIN') throw e; sleep(2); continue; }
    if (n === 0) return null;
    rest += chunk.toString('utf8', 0, n);
  }
}
const bank = Mongo('mongodb://127.0.0.1:27017/?directConnection=true').getDB('bank');
for (let line; (line = next()) !== null;) {
  if (line === 'open') { bank.account.insertMany([...Array(10000).keys()].map(i => ({_id: i, balance: 1000}))); continue; }
  if (line === 'books') { bank.log.find().sort({_id: 1}).forEach(d => print([d._id, d.source, d.target, d.amount].join(' '))); print('accounts'); bank.account.find().sort({_id: 1}).forEach(d => print(d._id + '|' + d.balance)); continue; }
  const [n, source, target, amount] = line.split(' ').map(Number);
  bank.account.updateOne({_id: source}, {$inc: {balance: -amount}});
  bank.account.updateOne({_id: target}, {$inc: {balance: amount}});
  bank.log.insertOne({_id: n, source, target, amount});
  print(n);
}
`

func plainTransaction(n int) string {
	source, target, amount := transfer(n)
	return fmt.Sprintf("%d %d %d %d\n", n, source, target, amount)
}

// judgeLog wants the log to hold each transaction up to the last, as it was.
func judgeLog(books []byte) (int, string) {
	lines := strings.SplitAfter(string(books), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != plainTransaction(i+1) {
			return i, fmt.Sprintf("transaction %d is %q, want %q", i+1, line, plainTransaction(i+1))
		}
	}
	return len(lines) - 1, ""
}

// judgeSteps wants the log, and the accounts as they were when it was written, or after a step of the next transaction.
func judgeSteps(books []byte) (int, string) {
	log, accounts, _ := bytes.Cut(books, []byte("accounts\n"))
	n, wrong := judgeLog(log)
	if wrong != "" {
		return n, wrong
	}
	balances := balancesOf(n)
	source, target, amount := transfer(n + 1)
	for _, step := range []func(){func() {}, func() { balances[source] -= amount }, func() { balances[target] += amount }} {
		step()
		if string(accounts) == accountRows(balances) {
			return n, ""
		}
	}
	return n, fmt.Sprintf("the accounts are those of no moment after %d transactions", n)
}

func (p *podServer) name() string { return workload.BankNamespace + "/" + p.Name }

func (p *podServer) entry() string {
	secrets := cmp.Or(p.secrets, fmt.Sprintf("{password: {secret: {namespace: %s, name: %s, key: %s}}}", workload.BankNamespace, p.Name, workload.BankAdmin))
	return fmt.Sprintf("    - name: %s\n      engine: %s\n      pod: {namespace: %s, selector: app=%s}\n      settings: %s\n      secrets: %s\n",
		p.name(), p.engine, workload.BankNamespace, p.Name, p.settings, secrets)
}

// command runs a script in the server's container, by containerd: it goes on while API servers are away.
func (p *podServer) command(t *testing.T, s *Scenario, script string) *exec.Cmd {
	t.Helper()
	id, err := s.Lab.Kubectl(t.Context(), "get", "pod", "--namespace", workload.BankNamespace, cmp.Or(p.at, workload.ServerPod(p.Name)), "--output", "jsonpath={.status.containerStatuses[0].containerID}")
	must(t, err)
	c, err := s.Lab.ExecCommand(t.Context(), s.Members()[0], "ctr", "--namespace", "k8s.io", "task", "exec", "--exec-id", "test-"+rand.Text(), strings.TrimPrefix(strings.TrimSpace(id), "containerd://"), "sh", "-c", script)
	must(t, err)
	return c
}

func (p *podServer) ask(t *testing.T, s *Scenario, client, statements string) []byte {
	t.Helper()
	c := p.command(t, s, client)
	var out, diagnostics bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(statements), &out, &diagnostics
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v: %s", p.Name, err, diagnostics.String())
	}
	return out.Bytes()
}

// begin opens the bank and lets money move.
func (p *podServer) begin(t *testing.T, s *Scenario) {
	t.Helper()
	if p.engine == "mariadb" {
		p.ask(t, s, strings.TrimSuffix(p.client, " bank"), "create database if not exists bank;\n")
	}
	p.ask(t, s, p.client, p.open)
	must(t, p.bank.start(t.Context(), p.command(t, s, p.client)))
}

// lose ends servers and takes their volumes' content away; the pods start over empty ones.
func (s *Scenario) lose(t *testing.T, servers []*podServer) {
	t.Helper()
	kubectl := func(args ...string) {
		out, err := s.Lab.Kubectl(t.Context(), append(args, "--namespace", workload.BankNamespace)...)
		if err != nil {
			t.Fatal(err, out)
		}
	}
	for _, p := range servers {
		kubectl("scale", "statefulset/"+p.Name, "--replicas=0")
	}
	for _, p := range servers {
		kubectl("wait", "--for=delete", "pod/"+workload.ServerPod(p.Name), "--timeout=120s")
		<-p.bank.done
		_, err := s.Lab.Exec(t.Context(), s.Members()[0], "find "+p.Folder+" -mindepth 1 -delete", nil)
		must(t, err)
		kubectl("scale", "statefulset/"+p.Name, "--replicas=1")
	}
	s.awaitReady(t)
}

func (s *Scenario) awaitReady(t *testing.T) {
	t.Helper()
	client, err := kubeClient(s.Lab)
	must(t, err)
	must(t, workload.Ready(t.Context(), client, time.Time{}))
}

// restored checks the books: whole, and between two numbers of transactions.
func (p *podServer) restored(t *testing.T, s *Scenario, what string, least, most int) {
	t.Helper()
	n, wrong := p.judge(p.ask(t, s, p.client, p.books))
	if wrong != "" {
		t.Errorf("%s: %s", what, wrong)
	}
	if n < least || n > most {
		t.Errorf("%s: %d transactions are back, want %d to %d", what, n, least, most)
	}
	t.Logf("%s: %d transactions (%d acknowledged before the instant, %d sent)", what, n, least, most)
}

// podGroup are servers that are backed up together, in one mode, by plans that have the group's name.
type podGroup struct {
	name, mode string
	servers    []*podServer
}

// podPlans are the plans of a group: a capture and a recovery.
const podPlans = `---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: back-up-%[1]s}
spec:
  purpose: capture
  steps:
    - {id: databases, uses: backup-databases, with: {mode: %[3]s, databases: [%[2]s]}}
    - {id: seal, uses: seal-recovery-point, needs: [databases]}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: restore-%[1]s}
spec:
  purpose: migrate
  steps:
    - {id: databases, uses: restore-databases, with: {databases: [%[2]s], onExisting: replace}}
    - {id: verify, uses: verify-databases, needs: [databases], with: {databases: [%[2]s]}}
`

// TestDatabasesInPods loses the volumes of servers in pods while money moves, and brings each back in each mode.
// A physical restore stops the server's workload, works on its volume in a stand-in, and starts it again.
func TestDatabasesInPods(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	postgres, maria, docs := postgresPod(), mariadbPod(), mongodbPod()
	servers := []*podServer{postgres, maria, docs}
	groups := []podGroup{
		{"logical", "logical", []*podServer{postgres, maria}},
		{"physical", "physical", []*podServer{postgres, maria}},
		{"documents", "logical", []*podServer{docs}},
	}
	s := podScenario(t, "pods", servers)
	endWatch := WatchProcesses(t.Context())
	s.Databases += postgres.fromHelper()
	s.startPods(t, servers)
	must(t, s.readAdministrator())
	s.writePlans(t, groups)
	for _, p := range servers {
		p.begin(t, s)
	}

	rolled := []*podServer{postgres, maria}
	s.beginArchive(t, rolled)
	points := s.backUpThroughBreaks(t, groups, 2) // a shell of MongoDB's takes seconds to begin
	// It is the container's first process: children of scripts that were killed may not be left to it.
	logs, err := s.Lab.Kubectl(t.Context(), "logs", "--namespace", workload.BankNamespace, workload.ServerPod(postgres.Name))
	must(t, err)
	if strings.Contains(logs, "terminating any other active server processes") {
		t.Errorf("PostgreSQL has crashed:\n%s", lastLines(logs, 20))
	}
	moment := s.pickMoment(t, rolled)
	s.loseAndRestore(t, servers, groups, points)
	s.restoreMoment(t, rolled, moment)
	s.throughHelper(t, postgres, "drop table account; delete from log where number % 2 = 0;\n")
	found, err := s.FindSecrets(endWatch())
	must(t, err)
	objects, err := s.Lab.Kubectl(t.Context(), "get", "events,pods,statefulsets", "--all-namespaces", "--output", "yaml")
	must(t, err)
	if strings.Contains(objects, workload.SecretMarker) {
		found = append(found, "a password in an object of the cluster")
	}
	for _, place := range found {
		t.Error("a secret shows: " + place)
	}
}

// podScenario makes a cluster that has the servers' images.
func podScenario(t *testing.T, name string, servers []*podServer) *Scenario {
	t.Helper()
	cluster := testenv.Config{Name: name, ControlPlanes: 1}
	for _, p := range servers {
		cluster.Images = append(cluster.Images, p.Image)
	}
	s := volumeScenario(t, cluster, "")
	s.Databases = "  databases:\n"
	return s
}

// startPods starts servers over folders of the machine, and names them in the Cluster document.
func (s *Scenario) startPods(t *testing.T, servers []*podServer) {
	t.Helper()
	client, err := kubeClient(s.Lab)
	must(t, err)
	for _, p := range servers {
		p.Mount, p.Folder = podData, "/srv/"+p.Name
		folders := p.Folder + " " + p.Outside
		_, err := s.Lab.Exec(t.Context(), s.Members()[0], "mkdir -p "+folders+" && chown 999:999 "+folders, nil)
		must(t, err)
		must(t, workload.StartServer(t.Context(), client, p.Server))
		s.Databases += p.entry()
	}
	s.awaitReady(t)
	must(t, s.Init(t.Context()))
}

func (s *Scenario) writePlans(t *testing.T, groups []podGroup) {
	t.Helper()
	appendFile(t, s.path("muster.yaml"), func(f *bytes.Buffer) {
		for _, g := range groups {
			fmt.Fprintf(f, podPlans, g.name, namesOf(g.servers), g.mode)
		}
	})
}

// loseAndRestore empties all servers, and then brings each group back.
func (s *Scenario) loseAndRestore(t *testing.T, servers []*podServer, groups []podGroup, points map[string]podPoint) {
	t.Helper()
	for _, p := range servers {
		must(t, p.bank.await(t.Context(), 20)) // the loss costs something
	}
	s.lose(t, servers)
	for _, g := range groups {
		must(t, s.Run(t.Context(), "restore-"+g.name, nil, "run", "restore-"+g.name, "--point", points[g.name].ID))
		for _, p := range g.servers {
			was := points[g.name].servers[p.name()]
			p.restored(t, s, p.Name+" "+g.mode, was.least, was.most)
		}
	}
}

// podPoint is a recovery point, and between which transactions each server's instant lies.
type podPoint struct {
	ID      string
	servers map[string]struct{ least, most int }
}

// newestOf is the recovery point that a group's backup has just made.
func (s *Scenario) newestOf(t *testing.T, g podGroup) podPoint {
	t.Helper()
	var manifest struct {
		ID        string         `json:"id"`
		Databases []capturedBank `json:"databases"`
	}
	must(t, s.query(t.Context(), &manifest, "points", "show", "latest", "--output", "json"))
	point := podPoint{manifest.ID, map[string]struct{ least, most int }{}}
	for _, p := range g.servers {
		i := slices.IndexFunc(manifest.Databases, func(d capturedBank) bool { return d.Name == p.name() })
		if i < 0 {
			t.Fatalf("the point of %s does not hold %s", g.name, p.name())
		}
		if d := manifest.Databases[i]; d.PointInTime == p.apart {
			t.Errorf("%s: a backup of one moment: %t", p.name(), d.PointInTime)
		}
		least := p.bank.acknowledged(manifest.Databases[i].Taken)
		if least == 0 {
			t.Errorf("%s: nothing was acknowledged before the backup", p.name())
		}
		point.servers[p.name()] = struct{ least, most int }{least, p.bank.sentSoFar()}
	}
	return point
}

func appendFile(t *testing.T, path string, fill func(*bytes.Buffer)) {
	t.Helper()
	var text bytes.Buffer
	fill(&text)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write(text.Bytes())
	must(t, err)
	must(t, f.Close())
}
