package scenario

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// scratchPlans are a capture that tests what it has sealed, and tests of a point.
const scratchPlans = `---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: back-up-%[1]s}
spec:
  purpose: capture
  steps:
    - {id: databases, uses: backup-databases, with: {mode: %[1]s}}
    - {id: seal, uses: seal-recovery-point, needs: [databases]}
    - id: test
      uses: test-databases
      needs: [seal]
      with:
        invariants:
          - {database: %[2]s/pg, scope: postgres, query: select sum(balance) as sum from account, expect: "rows[0].sum == 10000000"}
          - {database: %[2]s/maria, scope: bank, query: select count(*) as n from bulk, expect: "rows[0].n == 500000"}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: test-%[1]s}
spec:
  purpose: migrate
  steps:
    - id: test
      uses: test-databases
      with:
        databases: [%[2]s/pg]
        invariants:
          - {database: %[2]s/pg, scope: postgres, query: select count(*) as n from account, expect: "rows[0].n == 10000"}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: damaged-%[1]s}
spec:
  purpose: migrate
  steps:
    - id: test
      uses: test-databases
      with:
        databases: [%[2]s/maria]
        invariants:
          - {database: %[2]s/maria, scope: bank, query: select count(*) as n from account, expect: "rows[0].n == 9999"}
`

// TestScratchRestore backs up servers in pods while money moves, and proves each backup in a copy of its server. The
// copies go, and the servers never know.
func TestScratchRestore(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	servers := []*podServer{postgresPod(), mariadbPod()}
	s := podScenario(t, "scratch", servers)
	client, err := kubeClient(s.Lab)
	must(t, err)
	s.startPods(t, servers)
	appendFile(t, s.path("muster.yaml"), func(f *bytes.Buffer) {
		for _, mode := range []string{"logical", "physical"} {
			fmt.Fprintf(f, scratchPlans, mode, workload.BankNamespace)
		}
	})
	for _, p := range servers {
		p.begin(t, s)
	}
	before := bankPods(t, client)

	tables := map[string]int64{"logical": 2 * 3, "physical": 0} // physical backups have no digests
	for _, mode := range []string{"logical", "physical"} {
		must(t, s.Run(t.Context(), "back-up-"+mode, nil, "run", "back-up-"+mode, "--report", s.path("report.json")))
		s.proven(t, mode, tables[mode])
		wantNoScratch(t, client, "after the test of a "+mode+" capture")
		s.refused(t, "a damaged "+mode+" backup", 7, "rows[0].n == 9999 does not hold", "run", "damaged-"+mode)
		wantNoScratch(t, client, "after a failed test, "+mode)
		s.killTest(t, client, mode)
		wantNoScratch(t, client, "after a killed test was resumed, "+mode)
	}

	if after := bankPods(t, client); after != before {
		t.Errorf("the servers were touched:\n%s\nbefore:\n%s", after, before)
	}
	for _, p := range servers {
		must(t, p.bank.await(t.Context(), 20))
		must(t, p.bank.input.Close())
		<-p.bank.done
		p.restored(t, s, "the server itself", p.bank.acknowledged(time.Now()), p.bank.sentSoFar())
	}
}

// proven wants both databases in the report's restore tests, and says what it tells of them.
func (s *Scenario) proven(t *testing.T, mode string, tables int64) {
	t.Helper()
	report, err := s.ReadReport()
	must(t, err)
	for _, layer := range report.Layers {
		if layer.Layer != "restore tests" {
			continue
		}
		t.Logf("%s: %s", mode, layer.Text)
		if layer.Done != 2 || layer.Bytes == 0 || strings.Count(layer.Text, "1 invariants hold") != 2 || strings.Count(layer.Text, fmt.Sprintf(": %d tables equal", tables/2)) != 2 {
			t.Errorf("%s: the report tells %+v", mode, layer)
		}
		return
	}
	t.Errorf("%s: the report tells of no restore test: %+v", mode, report.Layers)
}

// scratchPods are the pods of the bank that are copies.
func scratchPods(ctx context.Context, client kubernetes.Interface) ([]corev1.Pod, error) {
	pods, err := client.CoreV1().Pods(workload.BankNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return !strings.HasSuffix(p.Name, "-scratch") }), nil
}

func wantNoScratch(t *testing.T, client kubernetes.Interface, when string) {
	t.Helper()
	pods, err := scratchPods(t.Context(), client)
	must(t, err)
	for _, p := range pods {
		t.Errorf("%s there is pod %s", when, p.Name)
	}
}

// killTest kills a test while its copy stands, and resumes it.
func (s *Scenario) killTest(t *testing.T, client kubernetes.Interface, mode string) {
	t.Helper()
	c, closeLogs, err := s.Command(t.Context(), "killed", nil, "run", "test-"+mode)
	must(t, err)
	defer closeLogs()
	must(t, c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for stands := false; !stands; {
		select {
		case err := <-ended:
			t.Fatalf("it ended before a copy was seen: %v", err)
		case <-ticker.C:
			pods, err := scratchPods(t.Context(), client)
			must(t, err)
			stands = len(pods) > 0
		}
	}
	must(t, c.Process.Kill())
	<-ended
	open := slices.DeleteFunc(s.openRuns(t), func(run string) bool { return !strings.HasPrefix(run, "test-"+mode) }) // those that failed are open, too
	if len(open) != 1 {
		t.Fatalf("the killed run is not the open one: %v", open)
	}
	must(t, s.Run(t.Context(), "killed", nil, "runs", "resume", open[0]))
}

// bankPods are the servers' pods, and how often each was begun.
func bankPods(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	pods, err := client.CoreV1().Pods(workload.BankNamespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	var lines []string
	for _, p := range pods.Items {
		lines = append(lines, fmt.Sprintf("%s %s %d", p.Name, p.UID, p.Status.ContainerStatuses[0].RestartCount))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
