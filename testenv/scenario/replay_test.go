package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/corpus"
	"github.com/musterdr/muster/testenv/workload"
)

// TestReplay brings the objects of one cluster into another one that already runs, twice, and then the
// corpus of another point.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := play(t, testenv.Config{Name: "from", ControlPlanes: 1, Workers: 1})
	must(t, s.Capture(t.Context()))
	s.extractAgrees(t)
	cases := s.captureCorpus(t)
	must(t, s.Destroy(t.Context()))

	fresh(t, "into")
	l, err := testenv.Up(t.Context(), testenv.Config{Name: "into", ControlPlanes: 1, Workers: 1}, s.say)
	must(t, err)
	raw, err := os.ReadFile(s.path("muster.yaml"))
	must(t, err)
	_, repository, _ := strings.Cut(string(raw), "---\n")
	must(t, os.WriteFile(s.path("into.yaml"), []byte(l.Inventory()+"---\n"+repository), 0o600))
	for range 2 { // the second time everything is there already
		must(t, s.Run(t.Context(), "replay", nil, "run", "replay", "--file", s.path("into.yaml"), "--point", s.Point))
	}

	config, err := restConfig(l)
	must(t, err)
	after, err := workload.List(t.Context(), config, "")
	must(t, err)
	for _, line := range s.Before.Elsewhere().Without(clustersOwn...).Diff(after.Elsewhere()) {
		if !strings.HasSuffix(line, ": not there before") {
			t.Error(line)
		}
	}
	s.corpusComesBack(t, config, cases)
}

// captureCorpus makes a second point, of a cluster that holds every case of the corpus.
func (s *Scenario) captureCorpus(t *testing.T) []corpus.Case {
	t.Helper()
	cases, err := corpus.Cases()
	must(t, err)
	config, err := restConfig(s.Lab)
	must(t, err)
	must(t, corpus.Seed(t.Context(), config, cases))
	must(t, s.Run(t.Context(), "capture-corpus", nil, "run", "capture"))
	return cases
}

// corpusComesBack replays the newest point. What cases want to be lost makes the run incomplete.
func (s *Scenario) corpusComesBack(t *testing.T, config *rest.Config, cases []corpus.Case) {
	t.Helper()
	must(t, corpus.Prepare(t.Context(), config, cases))
	replays, err := corpus.Replays(cases)
	must(t, err)
	must(t, os.WriteFile(s.path("corpus.yaml"), []byte(corpusPlan(replays)), 0o600))
	err = s.Run(t.Context(), "corpus", nil, "run", "corpus", "--file", s.path("into.yaml"), "--file", s.path("corpus.yaml"), "--point", "latest")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != incomplete {
		t.Fatalf("a replay with losses ended with %v, want exit code %d", err, incomplete)
	}
	problems, err := corpus.CheckAll(t.Context(), config, cases, nil)
	must(t, err)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			for _, problem := range problems[c.Name] {
				t.Error(problem)
			}
		})
	}
}

// incomplete is muster's exit code when not everything came back.
const incomplete = 20

// corpusPlan has one step a replay, one after the other.
func corpusPlan(replays []corpus.Replay) string {
	plan := "apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: corpus}\nspec:\n  purpose: migrate\n  steps:\n"
	needs := ""
	for _, replay := range replays {
		plan += fmt.Sprintf("    - {id: %s, uses: replay-namespaces, needs: [%s], with: %s}\n", replay.Name, needs, replay.With)
		needs = replay.Name
	}
	return plan
}

// extractAgrees compares what is in the point's etcd snapshot, at the point's revision, with what the API server
// listed at it, object by object.
func (s *Scenario) extractAgrees(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	must(t, s.Run(t.Context(), "extract", &out, "extract", "--snapshot", "latest", "--revision", strconv.FormatInt(s.Revision, 10), "--output", "json"))
	found, err := workload.Read(&out)
	must(t, err)
	for _, line := range s.Before.Diff(found) {
		if !strings.HasSuffix(line, ": not there before") { // kinds that the API server keeps for itself
			t.Error("extracted: " + line)
		}
	}
}

// clustersOwn are the parts of keys of what belongs to one cluster, or is made again by controllers.
var clustersOwn = []string{
	"/kube-", "/Node/", "/CSINode/", "/Pod/", "/ReplicaSet/", "/ControllerRevision/", "/Job/", "/kube-root-ca.crt", "/" + workload.TokenSecret, "/ServiceCIDR/",
	"/PersistentVolume/", "/default/kubernetes", "/APIService/", "/ClusterRole/", "/ClusterRoleBinding/", "/system:", "flowcontrol.apiserver.k8s.io/",
}
