package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// sealTestSource holds receipts by kind, and by kind and item.
type sealTestSource struct {
	single map[string]any
	items  map[string]map[string]any
}

func (s sealTestSource) ReceiptOf(kind string, into any) (bool, error) {
	receipt, ok := s.single[kind]
	if !ok {
		return false, nil
	}
	raw, err := json.Marshal(receipt)
	if err != nil {
		return true, err
	}
	return true, json.Unmarshal(raw, into)
}

func (s sealTestSource) ItemReceipts(kind string) map[string]orchestrator.Receipt {
	out := map[string]orchestrator.Receipt{}
	for item, receipt := range s.items[kind] {
		raw, err := json.Marshal(receipt)
		if err != nil {
			panic(err)
		}
		out[item] = raw
	}
	return out
}

func sealTestPut(t *testing.T, run *orchestrator.Run, name, content string) (repository.Object, repository.Tree) {
	t.Helper()
	stored, err := run.Repository.Put(t.Context(), name, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := run.Repository.PutTree(t.Context(), []repository.File{{Path: name, Object: stored}})
	if err != nil {
		t.Fatal(err)
	}
	return stored, tree
}

// sealTestCapture is what a capture of all layers leaves, with namespaces at a revision.
func sealTestCapture(t *testing.T, run *orchestrator.Run, revision int64) sealTestSource {
	t.Helper()
	taken := run.Now()
	content := func(path string, stored repository.Object) repository.Content {
		return repository.Content{Path: path, Size: stored.Size, SHA256: stored.SHA256}
	}
	snapshot, etcdTree := sealTestPut(t, run, "snapshot.db", "snapshot")
	rootfs, machineTree := sealTestPut(t, run, "rootfs.tar", "rootfs")
	index, objects := sealTestPut(t, run, "app.yaml", "{}")
	machines := map[string]any{}
	for i, name := range []string{"cp-0", "worker-1"} {
		machines[name] = map[string]any{"tree": machineTree, "layer": repository.MachineLayer{
			Name: name, Taken: taken.Add(time.Duration(i+1) * time.Second), Rootfs: content("machines/"+name+"/rootfs.tar", rootfs),
		}}
	}
	return sealTestSource{
		single: map[string]any{
			"snapshot-etcd": snapshotEtcdReceipt{Tree: etcdTree, Layer: repository.EtcdLayer{
				Revision: 4711, Taken: taken, Snapshot: content("etcd/snapshot.db", snapshot),
			}},
			"capture-namespaces": map[string]any{
				"layer": repository.NamespacesLayer{Revision: revision, Taken: taken.Add(time.Second / 2), Index: content("objects.jsonl", index)},
				"trees": []map[string]any{{"path": "cluster", "tree": objects}, {"path": "namespaces", "tree": objects}},
				"index": index,
			},
		},
		items: map[string]map[string]any{"capture-machines": machines},
	}
}

func TestSealMakesOnePointOfAllLayers(t *testing.T) {
	run, _ := etcdTestRun(t)
	step, source := &SealRecoveryPoint{}, sealTestCapture(t, run, 4711)
	receipt, err := step.seal(t.Context(), run, source)
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Verify(t.Context(), run, receipt); err != nil {
		t.Fatal(err)
	}
	point, err := run.Repository.Point(t.Context(), "prod-20260102T150405Z")
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := run.Repository.Manifest(t.Context(), point)
	if err != nil {
		t.Fatal(err)
	}
	if manifest.Run != "r1" || manifest.SkewSeconds != 2 || !manifest.Instant.Equal(run.Now()) || len(manifest.Machines) != 2 {
		t.Errorf("manifest %+v", manifest)
	}
	var paths []string
	err = run.Repository.Walk(t.Context(), point, "", func(path string, _ int64, _ func() (*repository.Reader, error)) error {
		paths = append(paths, path)
		return nil
	})
	want := "[cluster/app.yaml etcd/snapshot.db machines/cp-0/rootfs.tar machines/worker-1/rootfs.tar manifest.json manifest.sig namespaces/app.yaml objects.jsonl]"
	if err != nil || fmt.Sprint(paths) != want {
		t.Errorf("files %v, error %v", paths, err)
	}

	again, err := step.seal(t.Context(), run, source)
	if err != nil || sealTestPoint(t, again) != point.ID {
		t.Errorf("a second try made %s, error %v", again, err)
	}
	other := *run
	other.ID = "r2"
	second, err := step.seal(t.Context(), &other, source)
	if err != nil || sealTestPoint(t, second) != "prod-20260102T150405Z-r2" {
		t.Errorf("another run of the same second made %s, error %v", second, err)
	}
	if err := step.Verify(t.Context(), &other, receipt); !fault.Is(err, fault.Corrupt) {
		t.Errorf("another run's point passes: %v", err)
	}

	for range 2 { // what is gone already is no error
		if err := step.Undo(t.Context(), run, receipt); err != nil {
			t.Fatal(err)
		}
	}
	if err := step.Abandon(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	points, err := run.Repository.Points(t.Context())
	if err != nil || len(points) != 1 || points[0].ID != "prod-20260102T150405Z-r2" {
		t.Errorf("left after undo: %+v, %v", points, err)
	}
	if err := step.Abandon(t.Context(), &other); err != nil { // as if it had died before its receipt
		t.Fatal(err)
	}
	if points, err := run.Repository.Points(t.Context()); err != nil || len(points) > 0 {
		t.Errorf("left of an attempt without a receipt: %+v, %v", points, err)
	}
}

func sealTestPoint(t *testing.T, receipt orchestrator.Receipt) string {
	t.Helper()
	var r sealReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		t.Fatal(err)
	}
	return r.Point
}

func TestSealRefuses(t *testing.T) {
	run, _ := etcdTestRun(t)
	step := &SealRecoveryPoint{}
	_, err := step.seal(t.Context(), run, sealTestCapture(t, run, 4712))
	wantEtcdFault(t, err, fault.Corrupt, "they are not one instant")
	_, err = step.seal(t.Context(), run, sealTestSource{})
	wantEtcdFault(t, err, fault.Invalid, "no step of this plan has captured anything")
	run.Cluster = nil
	wantEtcdFault(t, step.Check(context.Background(), run), fault.Invalid, "names no cluster")
}

func TestSealOfMachinesAloneStandsForTheFirst(t *testing.T) {
	run, _ := etcdTestRun(t)
	source := sealTestCapture(t, run, 4711)
	source.single = nil
	receipt, err := new(SealRecoveryPoint).seal(t.Context(), run, source)
	if err != nil || sealTestPoint(t, receipt) != "prod-20260102T150406Z" {
		t.Errorf("receipt %s, error %v", receipt, err)
	}
}

func TestSealVerifyFindsMissingContent(t *testing.T) {
	run, _ := etcdTestRun(t)
	source := sealTestCapture(t, run, 4711)
	receipt := source.single["snapshot-etcd"].(snapshotEtcdReceipt)
	tests := []struct {
		content repository.Content
		kind    fault.Kind
	}{
		{repository.Content{Path: "etcd/other.db", Size: 8}, fault.NotFound},
		{repository.Content{Path: "etcd/snapshot.db", Size: 9}, fault.Corrupt},
	}
	for i, tt := range tests {
		receipt.Layer.Snapshot = tt.content
		receipt.Layer.Taken = run.Now().Add(time.Duration(i) * time.Minute)
		source.single["snapshot-etcd"] = receipt
		sealed, err := new(SealRecoveryPoint).seal(t.Context(), run, source)
		if err != nil {
			t.Fatal(err)
		}
		wantEtcdFault(t, new(SealRecoveryPoint).Verify(t.Context(), run, sealed), tt.kind, tt.content.Path)
	}
}

var (
	_ orchestrator.Step       = (*SealRecoveryPoint)(nil)
	_ orchestrator.Summarizer = (*SealRecoveryPoint)(nil)
)
