package scenario

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/mariadb"
	"github.com/musterdr/muster/testenv/mongodb"
)

// byHandDocuments are for servers that the runner reaches.
const byHandDocuments = `apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: byhand}
spec:
  kubeconfigFile: nobody-needs-it
  databases:
    - {name: shop/till, engine: mariadb, settings: {socket: %s}, secrets: {password: {env: TILL_PASSWORD}}}
    - {name: shop/docs, engine: mongodb, settings: {port: "%s"}}
---
apiVersion: muster.dev/v1alpha1
kind: Repository
metadata: {name: vault}
spec: {url: "file://%s", keyFile: %s}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: databases}
spec:
  purpose: capture
  steps:
    - {id: databases, uses: backup-databases}
    - {id: seal, uses: seal-recovery-point, needs: [databases]}
`

const byHandMariaDB = `create user teller@'%' identified by 'x'; create role auditor; grant select on *.* to auditor; grant auditor to teller@'%';
create schema bank; use bank; create table account (id int primary key, balance decimal(12, 2) not null, note varchar(40)); insert into account select seq, seq / 3, repeat('ü''', 7) from seq_1_to_10000;
create table entry (id int primary key auto_increment, account int references account (id), raw blob); insert into entry (account, raw) select id, unhex('00275c0a') from account;
create view rich as select * from account where balance > 1000; create sequence numbers; create procedure p() select 1; create event e on schedule every 1 day do select 1;
create schema ` + "`odd-name`; create table `odd-name`.`t a` (x float); insert into `odd-name`.`t a` values (1.5);\n"

const byHandMongoDB = `
const shop = server.getDB('shop');
shop.account.insertMany([...Array(2000).keys()].map(i => ({_id: i, owner: 'ü' + i % 10, balance: Long(String(i * 7))})));
shop.account.createIndex({owner: 1}, {name: 'by owner'});
server.getDB('odd-Name_1').getCollection('t a-b').insertOne({_id: 'x', raw: BinData(0, 'AP8NChoR'), at: new Date(1000)});
`

const readMongoDB = `
for (const [name, collection] of [['shop', 'account'], ['odd-Name_1', 't a-b']]) {
  server.getDB(name).getCollection(collection).find().sort({_id: 1}).forEach(d => print(EJSON.stringify(d, {relaxed: false})));
  print(JSON.stringify(server.getDB(name).getCollection(collection).getIndexes().map(i => [i.name, i.key])));
}
`

// TestDatabasesByHand follows docs/break-glass.md with stock tools: what muster captured comes back without it.
func TestDatabasesByHand(t *testing.T) {
	source, target := mariadb.Need(t), mariadb.Need(t)
	documents, into := mongodb.Need(t, mongodb.Config{}), mongodb.Need(t, mongodb.Config{})
	must(t, source.Source(t.Context(), byHandMariaDB))
	_, err := documents.JS(t.Context(), byHandMongoDB)
	must(t, err)
	muster, err := builtMuster()
	must(t, err)
	s := &Scenario{config: Config{Dir: t.TempDir(), Muster: muster, Out: &quiet{t}, Environment: []string{"TILL_PASSWORD=" + mariadb.Password}}}
	must(t, os.Mkdir(s.path("state"), 0o700))
	must(t, os.WriteFile(s.path("muster.yaml"), fmt.Appendf(nil, byHandDocuments, source.Socket(), documents.Port, s.path("repository"), s.path("muster.key")), 0o600))
	must(t, s.Run(t.Context(), "init", nil, "init", "--repository", s.path("repository"), "--key-file", s.path("muster.key")))
	must(t, s.Run(t.Context(), "capture", nil, "run", "databases"))

	_, err = target.SQL(t.Context(), "", "create user hand@localhost identified by 'hand'; grant all on *.* to hand@localhost with grant option; grant proxy on ''@'%' to hand@localhost with grant option")
	must(t, err)
	must(t, os.WriteFile(s.path(".my.cnf"), fmt.Appendf(nil, "[client]\nuser=hand\npassword=hand\nsocket=%s\n", target.Socket()), 0o600))
	out := s.followByHand(t, "#### MariaDB", "PATH=/usr/bin:/bin")
	if strings.Contains(out, "DIFFERENT") || strings.Count(out, "equal\t") != 4 {
		t.Errorf("compared:\n%s", out)
	}
	_, err = target.SQL(t.Context(), "", "drop user hand@localhost")
	must(t, err)
	for _, args := range [][]string{{"--all-databases", "--routines", "--events", "--triggers", "--ignore-database=mysql", "--ignore-database=sys"}, {"--system=users"}} {
		was, err := source.Dump(t.Context(), args...)
		must(t, err)
		is, err := target.Dump(t.Context(), args...)
		must(t, err)
		if was != is || len(was) < 1000 {
			t.Errorf("%v: %d bytes are not what %d were", args, len(is), len(was))
		}
	}

	must(t, os.RemoveAll(s.path("kopia.config")))
	must(t, os.WriteFile(s.path("config.yaml"), fmt.Appendf(nil, "uri: mongodb://127.0.0.1:%s/?directConnection=true\n", into.Port), 0o600))
	s.followByHand(t, "#### MongoDB", "PATH="+into.Programs+":/usr/bin:/bin")
	was, err := documents.JS(t.Context(), readMongoDB)
	must(t, err)
	is, err := into.JS(t.Context(), readMongoDB)
	must(t, err)
	if was != is || strings.Count(was, "\n") != 2002 {
		t.Errorf("MongoDB: %d bytes are not what %d were", len(is), len(was))
	}
}

// followByHand runs the commands under a heading of docs/break-glass.md, and returns what they print.
func (s *Scenario) followByHand(t *testing.T, heading, path string) string {
	t.Helper()
	tools, err := testenv.StockTools(t.Context(), s.say)
	must(t, err)
	var root []struct {
		Root string `json:"root"`
	}
	must(t, s.query(t.Context(), &root, "points", "list", "--output", "json"))
	document, err := os.ReadFile("../../docs/break-glass.md")
	must(t, err)
	script := strings.NewReplacer("/etc/muster/muster.key", s.path("muster.key"), "/srv/backup", s.path("repository"), "k6b51fd07208311ce12d3050637384e1e", root[0].Root).
		Replace(section(t, string(document), heading))
	c := exec.CommandContext(t.Context(), "sh", "-eu")
	c.Dir, c.Stdin = s.config.Dir, strings.NewReader(script)
	c.Env = []string{"HOME=" + s.config.Dir, path + ":" + tools}
	var diagnostics bytes.Buffer
	c.Stderr = &diagnostics
	out, err := c.Output()
	if err != nil {
		t.Fatalf("by hand: %v\n%s", err, lastLines(diagnostics.String(), 20))
	}
	return string(out)
}
