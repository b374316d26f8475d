package scenario

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// patroniSettled bounds the wait for a leader and a replica that has everything: the replica may have to copy it.
const patroniSettled = 3 * time.Minute

const (
	patroniLeader  = "role=master"
	patroniReplica = "role=replica"
)

// patroniEntries are two entries of one Patroni cluster: the first is backed up from its standby.
const patroniEntries = `  databases:
    - name: %[2]s
      engine: postgresql
      pod: {namespace: %[1]s, selector: "%[3]s,role=replica", primary: "%[3]s,role=master", patroni: "%[3]s"}
      settings: {host: 127.0.0.1, data: %[4]s/data}
      secrets: {password: {secret: {namespace: %[1]s, name: %[5]s, key: %[6]s}}}
    - name: %[2]s-primary
      engine: postgresql
      pod: {namespace: %[1]s, selector: "%[3]s,role=master"}
      settings: {host: 127.0.0.1}
      secrets: {password: {secret: {namespace: %[1]s, name: %[5]s, key: %[6]s}}}
`

// TestPatroni backs up a Patroni cluster while money moves, from its standby and from its primary, and brings it back:
// after the loss of all volumes, through a leader that runs, and over a cluster that has gone on, whose members all
// hold more than the backup.
func TestPatroni(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	p := postgresPod()
	p.Name, p.Image, p.Program = "ledger", testenv.PatroniImage, "/usr/local/bin/patroni-entrypoint"
	p.Env["SCOPE"] = p.Name
	p.open = strings.Replace(p.open, "500000", "50000", 1) // it is copied often
	s := volumeScenario(t, testenv.Config{Name: "patroni", ControlPlanes: 1, Images: []string{p.Image}}, "")
	s.startPatroni(t, p)
	must(t, s.readAdministrator())
	appendFile(t, s.path("muster.yaml"), func(f *bytes.Buffer) {
		fmt.Fprintf(f, podPlans, "standby", p.name(), "physical")
		fmt.Fprintf(f, podPlans, "primary", p.name()+"-primary", "logical")
	})
	s.settlePatroni(t, p)
	p.at = s.patroniPod(t, p, patroniLeader)
	p.begin(t, s)

	physical, standbyLeast, standbyMost := s.backUpStandby(t, p)
	logical, captured := s.backUpPatroni(t, "primary")
	least, most := p.bank.acknowledged(captured.Taken), p.bank.sentSoFar()
	must(t, p.bank.await(t.Context(), 20)) // the loss costs something

	s.losePatroni(t, p)
	s.restorePatroni(t, p, "standby", physical, standbyLeast, standbyMost)

	// Another leader, on another timeline, whose books are wrong, and are long.
	s.switchOver(t, p)
	s.spoil(t, p)
	s.restorePatroni(t, p, "primary", logical, least, most)
	s.spoil(t, p)
	s.restorePatroni(t, p, "standby", physical, standbyLeast, standbyMost)
}

// startPatroni starts the cluster over folders of the machine, and names it in the Cluster document.
func (s *Scenario) startPatroni(t *testing.T, p *podServer) {
	t.Helper()
	p.Mount, p.Folder = podData, "/srv/"+p.Name
	for member := range workload.PatroniMembers {
		s.on(t, s.Members()[0], "mkdir -p "+p.PatroniFolder(member)+" && chown 999:999 "+p.PatroniFolder(member))
	}
	client, err := kubeClient(s.Lab)
	must(t, err)
	must(t, workload.StartPatroni(t.Context(), client, p.Server))
	s.awaitReady(t)
	s.Databases = fmt.Sprintf(patroniEntries, workload.BankNamespace, p.name(), patroniSelector(p), podData, p.Name, workload.BankAdmin)
	must(t, s.Init(t.Context()))
}

func patroniSelector(p *podServer) string {
	labels := workload.PatroniLabels(p.Name)
	return "application=" + labels["application"] + ",cluster-name=" + labels["cluster-name"]
}

// patroniPod is the one pod of a role.
func (s *Scenario) patroniPod(t *testing.T, p *podServer, role string) string {
	t.Helper()
	names, err := s.patroniPods(t.Context(), p, role)
	must(t, err)
	if len(names) != 1 {
		t.Fatalf("pods with %s: %v", role, names)
	}
	return names[0]
}

func (s *Scenario) patroniPods(ctx context.Context, p *podServer, role string) ([]string, error) {
	out, err := s.Lab.Kubectl(ctx, "get", "pods", "--namespace", workload.BankNamespace, "--selector", patroniSelector(p)+","+role, "--output", "jsonpath={.items[*].metadata.name}")
	return strings.Fields(out), err
}

// settlePatroni waits until all members are ready, one leads, and the others have all that it has.
func (s *Scenario) settlePatroni(t *testing.T, p *podServer) {
	t.Helper()
	s.awaitReady(t)
	const lags = "select count(*) from pg_stat_replication where state = 'streaming' and replay_lsn = pg_current_wal_lsn()"
	var leaders, replicas []string
	var streaming string
	err := wait.PollUntilContextTimeout(t.Context(), time.Second, patroniSettled, true, func(ctx context.Context) (bool, error) {
		var err error
		if leaders, err = s.patroniPods(ctx, p, patroniLeader); err != nil || len(leaders) != 1 {
			return false, nil
		}
		if replicas, err = s.patroniPods(ctx, p, patroniReplica); err != nil || len(replicas) != workload.PatroniMembers-1 {
			return false, nil
		}
		streaming, err = s.Lab.Kubectl(ctx, "exec", "--namespace", workload.BankNamespace, leaders[0], "--", "psql", "-XAtq", "-h", "/tmp", "-U", "postgres", "-c", lags)
		return err == nil && strings.TrimSpace(streaming) == fmt.Sprint(workload.PatroniMembers-1), nil
	})
	if err != nil {
		for member := range workload.PatroniMembers {
			logs, _ := s.Lab.Kubectl(t.Context(), "logs", "--namespace", workload.BankNamespace, workload.PatroniPod(p.Name, member))
			t.Logf("member %d:\n%s", member, lastLines(logs, 40))
		}
		t.Fatalf("leaders %v, replicas %v, of which %q stream: %v", leaders, replicas, streaming, err)
	}
}

// patroniPoint is the part of a manifest that names a backup.
type patroniPoint struct {
	ID        string         `json:"id"`
	Databases []capturedBank `json:"databases"`
}

func (s *Scenario) backUpPatroni(t *testing.T, plan string) (id string, captured capturedBank) {
	t.Helper()
	must(t, s.Run(t.Context(), "back-up-"+plan, nil, "run", "back-up-"+plan))
	var manifest patroniPoint
	must(t, s.query(t.Context(), &manifest, "points", "show", "latest", "--output", "json"))
	if len(manifest.Databases) != 1 {
		t.Fatalf("the point holds %v", manifest.Databases)
	}
	return manifest.ID, manifest.Databases[0]
}

// backUpStandby tells how many transactions the standby had before, and how many there could be afterwards.
func (s *Scenario) backUpStandby(t *testing.T, p *podServer) (id string, least, most int) {
	t.Helper()
	p.at = s.patroniPod(t, p, patroniReplica)
	least, err := strconv.Atoi(strings.TrimSpace(string(p.ask(t, s, p.client, "select count(*) from log;\n"))))
	must(t, err)
	id, captured := s.backUpPatroni(t, "standby")
	if captured.Facts["standby"] != "t" || least == 0 {
		t.Errorf("%d transactions at the standby, and the backup's facts are %v", least, captured.Facts)
	}
	return id, least, p.bank.sentSoFar()
}

func (s *Scenario) scalePatroni(t *testing.T, p *podServer, members int) {
	t.Helper()
	_, err := s.Lab.Kubectl(t.Context(), "scale", "--namespace", workload.BankNamespace, "statefulset/"+p.Name, "--replicas="+strconv.Itoa(members))
	must(t, err)
}

// losePatroni ends all members and takes their volumes' content away. They start again, and wait for a leader, since
// Patroni remembers that there was a cluster.
func (s *Scenario) losePatroni(t *testing.T, p *podServer) {
	t.Helper()
	s.scalePatroni(t, p, 0)
	_, err := s.Lab.Kubectl(t.Context(), "wait", "--namespace", workload.BankNamespace, "--for=delete", "pod", "--selector", patroniSelector(p), "--timeout=120s")
	must(t, err)
	<-p.bank.done
	for member := range workload.PatroniMembers {
		s.on(t, s.Members()[0], "find "+p.PatroniFolder(member)+" -mindepth 1 -delete")
	}
	s.scalePatroni(t, p, workload.PatroniMembers)
}

// switchOver has the leader's pod go, and waits for another one to lead.
func (s *Scenario) switchOver(t *testing.T, p *podServer) {
	t.Helper()
	leader := s.patroniPod(t, p, patroniLeader)
	_, err := s.Lab.Kubectl(t.Context(), "delete", "pod", "--namespace", workload.BankNamespace, leader)
	must(t, err)
	s.settlePatroni(t, p)
	if s.patroniPod(t, p, patroniLeader) == leader {
		t.Fatalf("%s leads still", leader)
	}
}

// spoil writes wrong books, and more of the log than a member may be behind to become the leader.
func (s *Scenario) spoil(t *testing.T, p *podServer) {
	t.Helper()
	p.at = s.patroniPod(t, p, patroniLeader)
	p.ask(t, s, p.client, "update account set balance = 0;\ndelete from log where number % 2 = 0;\ncreate table spoilt as select n, md5(n::text) from generate_series(1, 100000) n;\n")
	s.settlePatroni(t, p)
}

// restorePatroni runs a restore, and looks at the books of all members.
func (s *Scenario) restorePatroni(t *testing.T, p *podServer, plan, point string, least, most int) {
	t.Helper()
	must(t, s.Run(t.Context(), "restore-"+plan, nil, "run", "restore-"+plan, "--point", point))
	s.settlePatroni(t, p)
	for _, role := range []string{patroniLeader, patroniReplica} {
		p.at = s.patroniPod(t, p, role)
		p.restored(t, s, plan+", "+role, least, most)
	}
}
