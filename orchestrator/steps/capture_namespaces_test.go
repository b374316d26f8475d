package steps

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/apiserver"
	"github.com/musterdr/muster/testenv/corpus"
)

// TestCaptureIsTheSnapshot captures a cluster that holds every case of the corpus, and to which a client
// writes all the time, at the revision of an etcd snapshot after which 200 writes have come: the API
// server lists what the snapshot holds, object by object, for all kinds.
func TestCaptureIsTheSnapshot(t *testing.T) {
	server := apiserver.Need(t, apiserver.Config{Controllers: true})
	config := restOf(t, server)
	cases, err := corpus.Cases()
	if err != nil {
		t.Fatal(err)
	}
	if err := corpus.Seed(t.Context(), config, cases); err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	api, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	writing := startWriting(t, api)
	before := writing.until(t, func(w written) bool { return w.count >= 200 })
	began := time.Now()
	snapshot, revision := takeSnapshot(t, server.Etcd)
	// A quick capture would otherwise find the cluster hardly changed since the snapshot.
	after := writing.until(t, func(w written) bool { return w.newest > revision })
	writing.until(t, func(w written) bool { return w.count >= after.count+200 })
	kept := &indexKept{}
	captured, err := cluster.Capture(t.Context(), cluster.CaptureConfig{Client: client, Store: kept, Revision: revision, Progress: &etcdTestProgress{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	meanwhile := writing.until(t, func(w written) bool { return w.count > after.count+200 })
	writes := meanwhile.count - before.count
	rate := float64(writes) / time.Since(began).Seconds()
	writing.stop(t)
	fmt.Printf("capture at revision %d: %d writes meanwhile, %.0f a second, up to revision %d\n", revision, writes, rate, meanwhile.newest)
	listed, err := cluster.ReadIndex(&kept.index)
	if err != nil {
		t.Fatal(err)
	}
	sameObjects(t, listed, captured.Layer.Left, extracted(t, client, snapshot, revision))
}

// takeSnapshot gives the path of a snapshot of etcd, and its revision.
func takeSnapshot(t *testing.T, endpoint string) (path string, revision int64) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "snapshot.db")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := etcd.Snapshot(t.Context(), etcd.Access{Endpoints: []string{endpoint}}, endpoint, file)
	if err != nil {
		t.Fatal(err)
	}
	if revision, err = pages.Revision(file, info.Size); err != nil {
		t.Fatal(err)
	}
	return path, revision
}

// indexKept is a store that keeps nothing but the index.
type indexKept struct{ index bytes.Buffer }

func (k *indexKept) Put(_ context.Context, name string, content io.Reader) (repository.Object, error) {
	into := io.Discard
	if name == cluster.IndexPath {
		into = &k.index
	}
	size, err := io.Copy(into, content)
	return repository.Object{ID: repository.ID(name), Size: size}, err
}

func (k *indexKept) PutTree(_ context.Context, files []repository.File) (repository.Tree, error) {
	return repository.Tree{Files: len(files)}, nil
}

// extracted are the digests of what a snapshot holds.
func extracted(t *testing.T, client *cluster.Client, path string, revision int64) map[cluster.Key]string {
	t.Helper()
	progress := &etcdTestProgress{}
	source := &EtcdSource{File: path, Revision: revision}
	recorded, done, err := source.recorded(t.Context(), &orchestrator.Run{Progress: progress}, client)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	for _, finding := range progress.findings {
		if finding.Severity == orchestrator.Lost {
			t.Errorf("extracted: %s %s", finding.Subject, finding.Text)
		}
	}
	digests := map[cluster.Key]string{}
	for _, entry := range recorded.Entries {
		raw, err := recorded.Load(t.Context(), entry.ID)
		if err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		var object cluster.Object
		if err := decoder.Decode(&object); err != nil {
			t.Fatal(err)
		}
		digests[entry.Key()] = cluster.Digest(object)
	}
	return digests
}

// sameObjects compares what was listed with what was extracted, except for what a capture leaves out.
func sameObjects(t *testing.T, listed []cluster.Entry, left []repository.LeftOut, found map[cluster.Key]string) {
	t.Helper()
	kinds := map[cluster.Key]int{}
	for _, entry := range listed {
		kinds[cluster.Key{Group: entry.Group, Resource: entry.Resource}]++
		if found[entry.Key()] != entry.Digest {
			t.Errorf("%s: extracted %q, listed %q", entry.Key(), found[entry.Key()], entry.Digest)
		}
		delete(found, entry.Key())
	}
	fmt.Printf("capture at revision: %d objects of %d kinds have the digests of the snapshot's\n", len(listed), len(kinds))
	for key := range found {
		resource := cluster.Resource{Group: key.Group, Name: key.Resource}
		if !slices.ContainsFunc(left, func(l repository.LeftOut) bool { return l.Subject == subjectOf(resource) }) {
			t.Errorf("%s was extracted and not listed", key)
		}
	}
	for _, kind := range writtenKinds() {
		if kinds[cluster.Key{Group: kind.Group, Resource: kind.Resource}] == 0 {
			t.Errorf("no %s was captured", kind.Resource)
		}
	}
}

func subjectOf(resource cluster.Resource) string {
	if resource.Group == "" {
		return resource.Name + ".core"
	}
	return resource.Name + "." + resource.Group
}
