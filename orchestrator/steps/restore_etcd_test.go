package steps

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/etcd/etcdtest"
	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// etcdRestoreTest is a recovery point with a real snapshot, and blank machines.
type etcdRestoreTest struct {
	run   *orchestrator.Run
	hosts etcdTestHosts
	step  *RestoreEtcd
	size  int64
}

func newEtcdRestoreTest(t *testing.T, machines ...string) *etcdRestoreTest {
	t.Helper()
	c := etcdtest.New(t, 1).Start(t)
	etcdtest.Fill(t, c.Client(t), "/registry/a/", 50, 100)
	var raw bytes.Buffer
	if _, err := etcd.Snapshot(t.Context(), etcd.Access{TLS: c.PKI.Client}, c.Endpoint(0), &raw); err != nil {
		t.Fatal(err)
	}
	c.Stop(0)
	run, _ := etcdTestRun(t)
	f := &etcdRestoreTest{run: run, hosts: etcdTestHosts{}, size: int64(raw.Len())}
	f.step = &RestoreEtcd{dial: f.hosts.dial, temp: t.TempDir()}
	run.Machines = &plans.Machines{Spec: plans.MachinesSpec{Machines: etcdTestMachines(machines...)}}
	for _, name := range machines {
		f.hosts[name] = &etcdTestHost{root: t.TempDir()}
	}
	f.seal(t, "good", raw.Bytes(), "")
	return f
}

// seal makes a point of a snapshot, whose digest in the manifest may be another.
func (f *etcdRestoreTest) seal(t *testing.T, id string, snapshot []byte, digest string) {
	t.Helper()
	stored, err := f.run.Repository.Put(t.Context(), "snapshot.db", bytes.NewReader(snapshot))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := f.run.Repository.PutTree(t.Context(), []repository.File{{Path: "snapshot.db", Object: stored}})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := pages.Revision(bytes.NewReader(snapshot), int64(len(snapshot)))
	if err != nil {
		t.Fatal(err)
	}
	if digest == "" {
		digest = stored.SHA256
	}
	layer := &repository.EtcdLayer{Revision: revision, Snapshot: repository.Content{Path: "etcd/snapshot.db", Size: stored.Size, SHA256: digest}}
	manifest := repository.Manifest{Version: 1, ID: id, Cluster: "prod", Created: f.run.Now(), Instant: f.run.Now(), Etcd: layer}
	if _, err := f.run.Repository.Seal(t.Context(), manifest, []repository.Subtree{{Path: "etcd", Tree: tree}}); err != nil {
		t.Fatal(err)
	}
	f.run.Point = id
}

func (f *etcdRestoreTest) do(t *testing.T, item string) restoreEtcdReceipt {
	t.Helper()
	f.run.Item = item
	raw, err := f.step.Do(t.Context(), f.run, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.step.Verify(t.Context(), f.run, raw); err != nil {
		t.Fatal(err)
	}
	var receipt restoreEtcdReceipt
	if err := json.Unmarshal(raw, &receipt); err != nil {
		t.Fatal(err)
	}
	return receipt
}

func (f *etcdRestoreTest) dataDir(name string) string {
	return filepath.Join(f.hosts[name].root, "var/lib/etcd")
}

func TestRestoreEtcdOnThreeMachines(t *testing.T) {
	f := newEtcdRestoreTest(t, "cp-0", "cp-1", "cp-2")
	if err := f.step.Check(t.Context(), f.run); err != nil {
		t.Fatal(err)
	}
	items, err := f.step.Items(t.Context(), f.run)
	if err != nil || fmt.Sprint(items) != "[cp-0 cp-1 cp-2]" {
		t.Fatalf("items %v, error %v", items, err)
	}
	var receipts []restoreEtcdReceipt
	for _, item := range items {
		receipts = append(receipts, f.do(t, item))
	}
	for i, r := range receipts {
		if r.Machine != items[i] || r.Token != receipts[0].Token || r.Bump != 1_000_000_000 || len(r.Files) < 3 {
			t.Errorf("receipt %+v", r)
		}
		path := filepath.Join(f.dataDir(items[i]), "member", "snap", "db")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pages.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil || got.Revision != r.Revision+1_000_000_000 || fmt.Sprint(got.Members) != "[cp-0 cp-1 cp-2]" {
			t.Errorf("%s holds %+v, error %v", items[i], got, err)
		}
		info, err := os.Stat(f.dataDir(items[i]))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("mode %v, error %v", info.Mode(), err)
		}
	}
	left, err := os.ReadDir(f.step.temp)
	if err != nil || len(left) != 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
	// A second try, after the receipt was lost, finds the member and changes nothing.
	if again := f.do(t, "cp-1"); fmt.Sprint(again) != fmt.Sprint(receipts[1]) {
		t.Errorf("the second try made %+v of %+v", again, receipts[1])
	}
}

func TestRestoreEtcdGoesOnAfterCut(t *testing.T) {
	f := newEtcdRestoreTest(t, "cp-0")
	host := f.hosts["cp-0"]
	host.write(t, "/var/lib/etcd/lost+found/.keep", "")
	host.cut = 2000
	f.run.Item = "cp-0"
	if _, err := f.step.Do(t.Context(), f.run, nil); err == nil {
		t.Fatal("a broken stream was taken for a whole one")
	}
	if _, err := os.Stat(filepath.Join(f.dataDir("cp-0"), "member")); err == nil {
		t.Fatal("a broken stream left a data directory")
	}
	if _, err := os.Stat(filepath.Join(f.dataDir("cp-0"), ".muster-r1")); err != nil {
		t.Fatalf("the cut left nothing behind, so that this test tests nothing: %v", err)
	}
	host.cut = 0
	f.do(t, "cp-0")
}

func TestRestoreEtcdFinishesMoveWithoutMarker(t *testing.T) {
	f := newEtcdRestoreTest(t, "cp-0")
	f.hosts["cp-0"].write(t, "/var/lib/etcd/.muster-r1/x", "")
	f.hosts["cp-0"].write(t, "/var/lib/etcd/member/snap/db", "moved, but the machine lost power before the marker was there")
	receipt := f.do(t, "cp-0")
	if receipt.Files["member/snap/db"] == "" {
		t.Errorf("receipt %+v", receipt)
	}
}

func TestRestoreEtcdRefusesBeforeAnyHarm(t *testing.T) {
	pod := func(name string) string {
		return "spec:\n  containers:\n  - image: etcd:3.6.6\n    command: [etcd, --name=" + name + "]\n"
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, f *etcdRestoreTest)
		kind    fault.Kind
		text    string
	}{
		{"data of somebody else", func(t *testing.T, f *etcdRestoreTest) {
			f.hosts["cp-0"].write(t, "/var/lib/etcd/member/snap/db", "precious")
		}, fault.Exists, "is not empty"},
		{"hidden file", func(t *testing.T, f *etcdRestoreTest) {
			f.hosts["cp-0"].write(t, "/var/lib/etcd/.hidden", "precious")
		}, fault.Exists, "is not empty"},
		{"data of another run", func(t *testing.T, f *etcdRestoreTest) {
			f.hosts["cp-0"].write(t, "/var/lib/etcd/member/snap/db", "precious")
			f.hosts["cp-0"].write(t, "/etc/muster/etcd-restored", "r0\n")
		}, fault.Exists, "is not empty"},
		{"kubelet runs", func(_ *testing.T, f *etcdRestoreTest) { f.hosts["cp-0"].kubelet = true }, fault.Busy, "systemctl stop kubelet"},
		{"another member's manifest", func(t *testing.T, f *etcdRestoreTest) {
			f.hosts["cp-0"].write(t, etcdManifestPath, pod("cp-7"))
		}, fault.Invalid, "is for member cp-7"},
		{"no such point", func(_ *testing.T, f *etcdRestoreTest) { f.run.Point = "none" }, fault.NotFound, "none"},
		{"no control plane", func(_ *testing.T, f *etcdRestoreTest) { f.run.Machines.Spec.Machines = nil }, fault.Invalid, "control-plane"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newEtcdRestoreTest(t, "cp-0")
			tt.prepare(t, f)
			before := etcdTestTree(t, f.hosts["cp-0"].root)
			wantEtcdFault(t, f.step.Check(t.Context(), f.run), tt.kind, tt.text)
			if after := etcdTestTree(t, f.hosts["cp-0"].root); after != before {
				t.Errorf("the check changed %s into %s", before, after)
			}
			f.run.Item = "cp-0"
			if _, err := f.step.Do(t.Context(), f.run, nil); err == nil {
				t.Error("it went on")
			}
			if after := etcdTestTree(t, f.hosts["cp-0"].root); after != before {
				t.Errorf("the refusal changed %s into %s", before, after)
			}
		})
	}
}

func etcdTestTree(t *testing.T, root string) string {
	t.Helper()
	var out bytes.Buffer
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			raw, readErr := os.ReadFile(path)
			fmt.Fprintf(&out, "%s=%q ", path, raw)
			return readErr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRestoreEtcdRefusesWrongHash(t *testing.T) {
	f := newEtcdRestoreTest(t, "cp-0")
	point, err := f.run.Repository.Point(t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	reader, err := f.run.Repository.OpenPath(t.Context(), point, "etcd/snapshot.db")
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, reader.Size())
	if _, err := reader.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-100] ^= 1
	for id, digest := range map[string]string{"manifest": "00", "trailer": ""} {
		f.seal(t, id, raw, digest)
		f.run.Item = "cp-0"
		_, err := f.step.Do(t.Context(), f.run, nil)
		wantEtcdFault(t, err, fault.Corrupt, "restore etcd")
		if tree := etcdTestTree(t, f.hosts["cp-0"].root); tree != "" {
			t.Errorf("%s: the machine was touched: %s", id, tree)
		}
	}
}

func TestRestoreEtcdVerifyFindsChange(t *testing.T) {
	f := newEtcdRestoreTest(t, "cp-0")
	receipt, err := json.Marshal(f.do(t, "cp-0"))
	if err != nil {
		t.Fatal(err)
	}
	f.hosts["cp-0"].write(t, "/var/lib/etcd/member/snap/db", "not what was sent")
	wantEtcdFault(t, f.step.Verify(t.Context(), f.run, receipt), fault.Corrupt, "does not hold what was sent")
}

func TestRestoreEtcdUndo(t *testing.T) {
	f := newEtcdRestoreTest(t, "cp-0")
	receipt, err := json.Marshal(f.do(t, "cp-0"))
	if err != nil {
		t.Fatal(err)
	}
	f.hosts["cp-0"].kubelet = true
	wantEtcdFault(t, f.step.Undo(t.Context(), f.run, receipt), fault.Busy, "systemctl stop kubelet")
	f.hosts["cp-0"].kubelet = false
	for range 2 { // what is gone already is no error
		if err := f.step.Undo(t.Context(), f.run, receipt); err != nil {
			t.Fatal(err)
		}
	}
	if tree := etcdTestTree(t, f.hosts["cp-0"].root); tree != "" {
		t.Errorf("left: %s", tree)
	}
	f.do(t, "cp-0")
}

// TestRestoreEtcdAbandon removes a member of which no receipt tells, and one that was cut off; another
// run's stays.
func TestRestoreEtcdAbandon(t *testing.T) {
	f := newEtcdRestoreTest(t, "cp-0")
	f.do(t, "cp-0")
	other := *f.run
	other.ID = "another"
	if err := f.step.Abandon(t.Context(), &other); err != nil {
		t.Fatal(err)
	}
	if tree := etcdTestTree(t, f.hosts["cp-0"].root); tree == "" {
		t.Error("another run's member was removed")
	}
	for range 2 { // nothing there is no error
		if err := f.step.Abandon(t.Context(), f.run); err != nil {
			t.Fatal(err)
		}
	}
	f.hosts["cp-0"].write(t, "/var/lib/etcd/.muster-"+f.run.ID+"/member/snap/db", "cut off")
	if err := f.step.Abandon(t.Context(), f.run); err != nil {
		t.Fatal(err)
	}
	if tree := etcdTestTree(t, f.hosts["cp-0"].root); tree != "" {
		t.Errorf("left: %s", tree)
	}
}

var (
	_ orchestrator.Step       = (*RestoreEtcd)(nil)
	_ orchestrator.FanOut     = (*RestoreEtcd)(nil)
	_ orchestrator.Summarizer = (*RestoreEtcd)(nil)
)
