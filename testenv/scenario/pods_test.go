package scenario

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
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
	engine   string
	settings string // of the Cluster document: YAML in one line
	client   string // a script in the pod: reads statements, prints rows, and ends at the first error
	open     string // statements that make the bank
	bank     bank
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
		bank: bank{transaction: postgresTransaction},
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
		bank: bank{transaction: func(n int) string {
			return strings.Replace(postgresTransaction(n), `\echo `+fmt.Sprint(n), fmt.Sprintf("select %d;", n), 1)
		}},
	}
}

// readBooks prints the same rows of every server that knows SQL.
const readBooks = `select concat_ws('|', number, source, target, amount) from log order by number;
select concat_ws('|', id, balance) from account order by id;
`

func (p *podServer) name() string { return workload.BankNamespace + "/" + p.Name }

func (p *podServer) entry() string {
	return fmt.Sprintf("    - name: %s\n      engine: %s\n      pod: {namespace: %s, selector: app=%s}\n      settings: %s\n      secrets: {password: {secret: {namespace: %[3]s, name: %[4]s, key: %[6]s}}}\n",
		p.name(), p.engine, workload.BankNamespace, p.Name, p.settings, workload.BankAdmin)
}

// command runs a script in the server's container, by containerd: it goes on while API servers are away.
func (p *podServer) command(t *testing.T, s *Scenario, script string) *exec.Cmd {
	t.Helper()
	id, err := s.Lab.Kubectl(t.Context(), "get", "pod", "--namespace", workload.BankNamespace, workload.ServerPod(p.Name), "--output", "jsonpath={.status.containerStatuses[0].containerID}")
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

// lose ends the server and takes its volume's content away; the pod starts over an empty one.
func (p *podServer) lose(t *testing.T, s *Scenario) {
	t.Helper()
	scale := func(n string) {
		out, err := s.Lab.Kubectl(t.Context(), "scale", "--namespace", workload.BankNamespace, "statefulset/"+p.Name, "--replicas="+n)
		if err != nil {
			t.Fatal(err, out)
		}
	}
	scale("0")
	_, err := s.Lab.Kubectl(t.Context(), "wait", "--namespace", workload.BankNamespace, "--for=delete", "pod/"+workload.ServerPod(p.Name), "--timeout=120s")
	must(t, err)
	<-p.bank.done
	_, err = s.Lab.Exec(t.Context(), s.Members()[0], "find "+p.Folder+" -mindepth 1 -delete", nil)
	must(t, err)
	scale("1")
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
	rows := p.ask(t, s, p.client, readBooks)
	n := bytes.Count(rows, []byte("\n")) - bankAccounts
	if n < least || n > most {
		t.Errorf("%s: %d transactions are back, want %d to %d", what, n, least, most)
	}
	if rowsDigest(rows) != ledgerOf(n) {
		t.Errorf("%s: the rows are not those of %d transactions", what, n)
	}
	t.Logf("%s: %d transactions (%d acknowledged before the instant, %d sent)", what, n, least, most)
}

// podPlans are the plans of TestDatabasesInPods: a capture and a recovery in each mode.
const podPlans = `---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: back-up-%[1]s}
spec:
  purpose: capture
  steps:
    - {id: databases, uses: backup-databases, with: {mode: %[1]s, databases: [%[2]s]}}
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
	postgres, maria := postgresPod(), mariadbPod()
	servers := []*podServer{postgres, maria}
	modes := map[string][]*podServer{"logical": {postgres, maria}, "physical": {postgres, maria}}
	cluster := testenv.Config{Name: "pods", ControlPlanes: 1}
	for _, p := range servers {
		cluster.Images = append(cluster.Images, p.Image)
	}
	s := volumeScenario(t, cluster, "")
	client, err := kubeClient(s.Lab)
	must(t, err)
	s.Databases = "  databases:\n"
	for _, p := range servers {
		p.Mount, p.Folder = podData, "/srv/"+p.Name
		_, err := s.Lab.Exec(t.Context(), s.Members()[0], "mkdir -p "+p.Folder+" && chown 999:999 "+p.Folder, nil)
		must(t, err)
		must(t, workload.StartServer(t.Context(), client, p.Server))
		s.Databases += p.entry()
	}
	s.awaitReady(t)
	must(t, s.Init(t.Context()))
	appendFile(t, s.path("muster.yaml"), func(f *bytes.Buffer) {
		for _, mode := range slices.Sorted(maps.Keys(modes)) {
			var names []string
			for _, p := range modes[mode] {
				names = append(names, p.name())
			}
			fmt.Fprintf(f, podPlans, mode, strings.Join(names, ", "))
		}
	})
	for _, p := range servers {
		p.begin(t, s)
	}

	points := s.backUpThroughBreaks(t, modes)
	// It is the container's first process: children of scripts that were killed may not be left to it.
	logs, err := s.Lab.Kubectl(t.Context(), "logs", "--namespace", workload.BankNamespace, workload.ServerPod(postgres.Name))
	must(t, err)
	if strings.Contains(logs, "terminating any other active server processes") {
		t.Errorf("PostgreSQL has crashed:\n%s", lastLines(logs, 20))
	}
	for _, p := range servers {
		must(t, p.bank.await(t.Context(), 20)) // the loss costs something
		p.lose(t, s)
	}
	for _, mode := range slices.Sorted(maps.Keys(modes)) {
		must(t, s.Run(t.Context(), "restore-"+mode, nil, "run", "restore-"+mode, "--point", points[mode].ID))
		for _, p := range modes[mode] {
			was := points[mode].servers[p.name()]
			p.restored(t, s, p.Name+" "+mode, was.least, was.most)
		}
	}
}

// podPoint is a recovery point, and between which transactions each server's instant lies.
type podPoint struct {
	ID      string
	servers map[string]struct{ least, most int }
}

// newestOf is the recovery point that a backup in a mode has just made.
func (s *Scenario) newestOf(t *testing.T, mode string, servers []*podServer) podPoint {
	t.Helper()
	var manifest struct {
		ID        string         `json:"id"`
		Databases []capturedBank `json:"databases"`
	}
	must(t, s.query(t.Context(), &manifest, "points", "show", "latest", "--output", "json"))
	point := podPoint{manifest.ID, map[string]struct{ least, most int }{}}
	for _, p := range servers {
		i := slices.IndexFunc(manifest.Databases, func(d capturedBank) bool { return d.Name == p.name() })
		if i < 0 {
			t.Fatalf("the point of mode %s does not hold %s", mode, p.name())
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
