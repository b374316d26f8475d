package steps

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/etcd/etcdtest"
	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// etcdTestControlPlane is a machine that has what kubeadm leaves on one, for a running test cluster.
func etcdTestControlPlane(t *testing.T, c *etcdtest.Cluster, flags string) *etcdTestHost {
	t.Helper()
	host := &etcdTestHost{root: t.TempDir()}
	for path, file := range map[string]string{
		etcdCAPath: "ca.crt", etcdClusterCAPath: "ca.crt", etcdClientCertPath: "member.crt", etcdClientKeyPath: "member.key",
	} {
		raw, err := os.ReadFile(filepath.Join(c.PKI.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		host.write(t, path, string(raw))
	}
	host.write(t, etcdAPIServerManifestPath, "spec:\n  containers:\n  - image: registry.k8s.io/kube-apiserver:v1.36.3\n    command: [kube-apiserver"+flags+"]\n")
	return host
}

func etcdTestMachines(names ...string) []plans.Machine {
	var out []plans.Machine
	for i, name := range names {
		out = append(out, plans.Machine{Name: name, Address: "10.0.0.1" + string(rune('0'+i)), Role: plans.ControlPlane})
	}
	return out
}

func TestSnapshotEtcdRecordsWhatRestoreNeeds(t *testing.T) {
	c := etcdtest.New(t, 3).Start(t)
	client := c.Client(t)
	last := etcdtest.Fill(t, client, "/registry/a/", 300, 500)
	run, log := etcdTestRun(t)
	run.Cluster.Spec.Machines = etcdTestMachines("cp-0", "cp-1")
	run.Cluster.Spec.Etcd.Endpoints = c.Endpoints()
	host := etcdTestControlPlane(t, c, ", --encryption-provider-config=/etc/kubernetes/enc.yaml")
	step := &SnapshotEtcd{dial: etcdTestHosts{"cp-1": host}.dial} // cp-0 does not answer
	if err := step.Check(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	receipt, err := step.Do(t.Context(), run, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Verify(t.Context(), run, receipt); err != nil {
		t.Fatal(err)
	}
	var got snapshotEtcdReceipt
	if err := json.Unmarshal(receipt, &got); err != nil {
		t.Fatal(err)
	}
	layer := got.Layer
	if layer.Revision != last || layer.HashRev != last || layer.HashKV == 0 || layer.RaftIndex < uint64(last) {
		t.Errorf("revision %d, hash %x at %d, raft index %d; the last write was %d", layer.Revision, layer.HashKV, layer.HashRev, layer.RaftIndex, last)
	}
	if layer.Kubernetes != "v1.36.3" || !layer.Encryption || !layer.Taken.Equal(run.Now()) {
		t.Errorf("kubernetes %q, encryption %v, taken %v", layer.Kubernetes, layer.Encryption, layer.Taken)
	}
	if len(layer.Members) != 3 || layer.Members[2].Name != "cp-2" || !layer.Members[2].Healthy || layer.ClusterID == "" {
		t.Errorf("members %+v of %q", layer.Members, layer.ClusterID)
	}
	if f := layer.Fingerprint; len(f.EtcdCA) != 64 || f.ClusterCA != f.EtcdCA || f.FrontProxyCA != "" {
		t.Errorf("fingerprints %+v", f)
	}
	if layer.Snapshot != (repository.Content{Path: "etcd/snapshot.db", Size: got.Object.Size, SHA256: got.Object.SHA256}) || got.Tree.Files != 1 {
		t.Errorf("snapshot %+v, tree %+v", layer.Snapshot, got.Tree)
	}
	again, err := step.Do(t.Context(), run, receipt)
	if err != nil || !bytes.Equal(again, receipt) {
		t.Errorf("a second try does not keep the first one's snapshot: %s, %v", again, err)
	}
	key, err := os.ReadFile(filepath.Join(c.PKI.Dir, "member.key"))
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Split(string(key), "\n")[1]
	if strings.Contains(string(receipt)+log.String(), secret) {
		t.Error("the client key stands in the receipt or the log")
	}
}

func TestSnapshotEtcdWithoutMachines(t *testing.T) {
	c := etcdtest.New(t, 1).Start(t)
	run, _ := etcdTestRun(t)
	run.Cluster.Spec.Etcd = plans.Etcd{
		Endpoints: c.Endpoints(), CAFile: filepath.Join(c.PKI.Dir, "ca.crt"),
		CertFile: filepath.Join(c.PKI.Dir, "member.crt"), KeyFile: filepath.Join(c.PKI.Dir, "member.key"),
	}
	step := &SnapshotEtcd{}
	receipt, err := step.Do(t.Context(), run, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Verify(t.Context(), run, receipt); err != nil {
		t.Fatal(err)
	}
	findings := run.Progress.(*etcdTestProgress).findings
	if len(findings) != 1 || !strings.Contains(findings[0].Text, "fingerprints of the PKI are not recorded") {
		t.Errorf("findings %+v", findings)
	}

	run.Cluster.Spec.Etcd.KeyFile = ""
	_, err = step.Do(t.Context(), run, nil)
	wantEtcdFault(t, err, fault.Invalid, "needs caFile, certFile and keyFile together")
	run.Cluster.Spec.Etcd.CAFile, run.Cluster.Spec.Etcd.CertFile = "", ""
	_, err = step.Do(t.Context(), run, nil)
	wantEtcdFault(t, err, fault.Invalid, "nor a control-plane machine to fetch them from")
}

func TestSnapshotEtcdVerifyFindsDamage(t *testing.T) {
	run, _ := etcdTestRun(t)
	stored, err := run.Repository.Put(t.Context(), "snapshot.db", bytes.NewReader(make([]byte, 4096+32)))
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := json.Marshal(snapshotEtcdReceipt{Object: stored})
	if err != nil {
		t.Fatal(err)
	}
	wantEtcdFault(t, new(SnapshotEtcd).Verify(t.Context(), run, receipt), fault.Corrupt, "SHA-256")
}

func TestSnapshotThatLagsIsRefused(t *testing.T) {
	member := etcd.Member{Name: "cp-0"}
	state := etcd.State{Revision: 100, Members: []etcd.Member{member}}
	good := pages.Contents{Revision: 100, Members: []string{"cp-0"}}
	if err := compareEtcdContents(good, state, member); err != nil {
		t.Error(err)
	}
	lagging, foreign := good, good
	lagging.Revision = 99
	foreign.Members = []string{"cp-0", "cp-1"}
	wantEtcdFault(t, compareEtcdContents(lagging, state, member), fault.Transient, "the member lags")
	wantEtcdFault(t, compareEtcdContents(foreign, state, member), fault.Busy, "membership was changed")
}

var _ orchestrator.Step = (*SnapshotEtcd)(nil)
