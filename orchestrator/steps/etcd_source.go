package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/etcd/registry"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// EtcdSource is an etcd snapshot from which objects are replayed, as they were at one revision.
type EtcdSource struct {
	// File is a snapshot on the runner, by its absolute path; empty means the recovery point's own.
	File string `yaml:"file,omitempty" json:"file,omitempty"`
	// Revision of etcd; 0 means the newest in the snapshot.
	Revision int64 `yaml:"revision,omitempty" json:"revision,omitempty"`
	// EncryptionConfig is the file of kube-apiserver's EncryptionConfiguration, where objects are encrypted
	// at rest.
	EncryptionConfig string `yaml:"encryptionConfig,omitempty" json:"encryptionConfig,omitempty"`
}

// PointsSnapshot lets work read the etcd snapshot of a recovery point, from a file that ends with it.
func PointsSnapshot(ctx context.Context, opened *repository.Repository, id string, work func(*os.File) error) error {
	point, path, err := findSnapshot(ctx, opened, id)
	if err != nil {
		return err
	}
	from, err := opened.OpenPath(ctx, point, path)
	if err != nil {
		return err
	}
	defer from.Close()
	file, err := unnamedFile()
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(file, from); err != nil {
		return err
	}
	return work(file)
}

func findSnapshot(ctx context.Context, opened *repository.Repository, id string) (point repository.Point, path string, err error) {
	if point, err = opened.Point(ctx, id); err != nil {
		return point, "", err
	}
	manifest, err := opened.Manifest(ctx, point)
	if err != nil {
		return point, "", err
	}
	if manifest.Etcd == nil {
		return point, "", fault.Newf("open snapshot", fault.NotFound, point.ID, "the recovery point holds no etcd snapshot")
	}
	return point, manifest.Etcd.Snapshot.Path, nil
}

// unnamedFile is readable through its handle alone, and gone when that is closed, also after a death.
func unnamedFile() (*os.File, error) {
	file, err := os.CreateTemp("", "muster-")
	if err != nil {
		return nil, err
	}
	return file, os.Remove(file.Name())
}

func (s *EtcdSource) check() error {
	if s.File != "" && !strings.HasPrefix(s.File, "/") {
		return fault.Newf("read etcdSnapshot", fault.Invalid, s.File, "want an absolute path: the runner may have another working directory")
	}
	if s.Revision < 0 {
		return fault.Newf("read etcdSnapshot", fault.Invalid, strconv.FormatInt(s.Revision, 10), "want a revision of etcd")
	}
	return nil
}

// exists looks for the snapshot and does not read it.
func (s *EtcdSource) exists(ctx context.Context, run *orchestrator.Run) error {
	if s.File == "" {
		_, _, err := findSnapshot(ctx, run.Repository, run.Point)
		return err
	}
	if _, err := os.Stat(s.File); err != nil {
		return fault.New("open snapshot", fault.NotFound, s.File, err)
	}
	return nil
}

func (s *EtcdSource) open(ctx context.Context, run *orchestrator.Run, work func(*os.File) error) error {
	if s.File == "" {
		return PointsSnapshot(ctx, run.Repository, run.Point, work)
	}
	file, err := os.Open(s.File)
	if err != nil {
		return fault.New("open snapshot", fault.NotFound, s.File, err)
	}
	defer file.Close()
	return work(file)
}

func (s *EtcdSource) keys(ctx context.Context) (*registry.Keys, error) {
	if s.EncryptionConfig == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(s.EncryptionConfig)
	if err != nil {
		return nil, fault.New("read encryption configuration", fault.NotFound, s.EncryptionConfig, err)
	}
	return registry.ReadKeys(ctx, raw)
}

// snapshotObjects collects what a snapshot holds into a file of its own: a cluster's objects need not fit
// into memory.
type snapshotObjects struct {
	file    *os.File
	size    int64
	found   []snapshotObject
	defined map[schema.GroupKind]cluster.Resource // by the snapshot's own definitions
	unread  int
	cause   error // of the first one that could not be read
}

type snapshotObject struct {
	kind            schema.GroupVersionKind
	namespace, name string
	uid, revision   string
	at, size        int64
}

// recorded reads the objects. They can be loaded until done is called.
func (s *EtcdSource) recorded(ctx context.Context, run *orchestrator.Run, client *cluster.Client) (recorded cluster.Recorded, done func(), err error) {
	file, err := unnamedFile()
	if err != nil {
		return cluster.Recorded{}, nil, err
	}
	objects := &snapshotObjects{file: file, defined: map[schema.GroupKind]cluster.Resource{}}
	err = s.open(ctx, run, func(snapshot *os.File) error { return s.collect(ctx, snapshot, objects) })
	if err == nil {
		recorded, err = objects.recorded(ctx, run, client)
	}
	if err != nil {
		file.Close()
		return cluster.Recorded{}, nil, err
	}
	return recorded, func() { file.Close() }, nil
}

func (s *EtcdSource) collect(ctx context.Context, snapshot *os.File, objects *snapshotObjects) error {
	keys, err := s.keys(ctx)
	if err != nil {
		return err
	}
	info, err := snapshot.Stat()
	if err != nil {
		return err
	}
	if err := etcd.CheckFile(snapshot, info.Size()); err != nil {
		return err
	}
	return registry.Read(ctx, snapshot, info.Size(), registry.Query{Revision: s.Revision}, func(entry registry.Entry) error {
		object, err := registry.Object(ctx, entry, keys)
		if fault.Is(err, fault.Unsupported) {
			return nil // the API servers keep more than objects
		}
		if err != nil {
			objects.unread++
			if objects.cause == nil {
				objects.cause = err
			}
			return nil
		}
		return objects.add(object)
	})
}

func (o *snapshotObjects) add(object *unstructured.Unstructured) error {
	raw, err := json.Marshal(object.Object)
	if err != nil {
		return err
	}
	if _, err := o.file.WriteAt(raw, o.size); err != nil {
		return err
	}
	o.found = append(o.found, snapshotObject{
		kind: object.GroupVersionKind(), namespace: object.GetNamespace(), name: object.GetName(), uid: string(object.GetUID()),
		revision: object.GetResourceVersion(), at: o.size, size: int64(len(raw)),
	})
	o.size += int64(len(raw))
	if object.GetKind() == "CustomResourceDefinition" {
		o.define(object)
	}
	return nil
}

func (o *snapshotObjects) define(definition *unstructured.Unstructured) {
	text := func(path ...string) string {
		value, _, _ := unstructured.NestedString(definition.Object, path...)
		return value
	}
	kind := schema.GroupKind{Group: text("spec", "group"), Kind: text("spec", "names", "kind")}
	o.defined[kind] = cluster.Resource{Group: kind.Group, Kind: kind.Kind, Name: text("spec", "names", "plural"), Namespaced: text("spec", "scope") == "Namespaced"}
}

// recorded names the objects' resources: as the cluster serves them, or as the snapshot's definitions do.
func (o *snapshotObjects) recorded(ctx context.Context, run *orchestrator.Run, client *cluster.Client) (cluster.Recorded, error) {
	served, _, err := client.Discover(ctx)
	if err != nil {
		return cluster.Recorded{}, err
	}
	known := o.defined
	for _, resource := range served {
		known[schema.GroupKind{Group: resource.Group, Kind: resource.Kind}] = resource
	}
	if o.unread > 0 {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Lost, Layer: "namespaces",
			Subject: fmt.Sprintf("%d objects of the snapshot", o.unread), Text: "they can't be read: " + o.cause.Error()})
	}
	var recorded cluster.Recorded
	places, unknown := map[repository.ID]snapshotObject{}, map[schema.GroupKind]int{}
	taken := map[cluster.Key]bool{}
	for _, object := range o.found {
		resource, found := known[object.kind.GroupKind()]
		if !found {
			unknown[object.kind.GroupKind()]++
			continue
		}
		entry := cluster.Entry{
			Group: object.kind.Group, Version: object.kind.Version, Resource: resource.Name, Kind: object.kind.Kind,
			Namespace: object.namespace, Name: object.name, UID: object.uid, ResourceVersion: object.revision,
			ID: repository.ID(strconv.FormatInt(object.at, 10)), Size: object.size,
		}
		// The API servers' leases of their addresses look like Endpoints, and have no namespace.
		if taken[entry.Key()] || resource.Namespaced != (object.namespace != "") {
			continue
		}
		taken[entry.Key()] = true
		places[entry.ID] = object
		recorded.Entries = append(recorded.Entries, entry)
	}
	for kind, count := range unknown {
		if kind.Kind != "Event" { // the past
			run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "namespaces",
				Subject: fmt.Sprintf("%d objects", count), Text: "passed over: the cluster does not serve " + kind.String()})
		}
	}
	cluster.SortEntries(recorded.Entries)
	recorded.Load = func(_ context.Context, id repository.ID) ([]byte, error) {
		place := places[id]
		raw := make([]byte, place.size)
		_, err := o.file.ReadAt(raw, place.at)
		return raw, err
	}
	return recorded, nil
}
