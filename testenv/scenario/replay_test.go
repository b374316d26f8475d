package scenario

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// TestReplay brings the objects of one cluster into another one that already runs, twice.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := play(t, testenv.Config{Name: "from", ControlPlanes: 1, Workers: 1})
	must(t, s.Capture(t.Context()))
	s.extractAgrees(t)
	must(t, s.Destroy(t.Context()))

	fresh(t, "into")
	l, err := testenv.Up(t.Context(), testenv.Config{Name: "into", ControlPlanes: 1, Workers: 1}, s.say)
	must(t, err)
	raw, err := os.ReadFile(s.path("muster.yaml"))
	must(t, err)
	_, repository, _ := strings.Cut(string(raw), "---\n")
	must(t, os.WriteFile(s.path("into.yaml"), []byte(l.Inventory()+"---\n"+repository), 0o600))
	for range 2 { // the second time everything is there already
		must(t, s.Run(t.Context(), "replay", nil, "run", "replay", "--file", s.path("into.yaml")))
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
