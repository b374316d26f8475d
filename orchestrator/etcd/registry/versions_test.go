package registry

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/etcd"
)

// TestVersions compares what snapshots of each release of etcd hold with what that etcd itself answered, at every
// revision that it still had.
func TestVersions(t *testing.T) {
	for _, version := range etcd.Versions {
		t.Run(version, func(t *testing.T) {
			client, err := etcd.NeedVersion(t, version).Client()
			must(t, err)
			defer client.Close()
			compacted, newest := write(t, client)
			file := snapshotOf(t, client)
			contents(t, file, version, compacted, newest)
			for revision := compacted; revision <= newest; revision++ {
				sameAs(t, client, file, revision)
			}
			for _, revision := range []int64{compacted - 1, newest + 1} {
				if _, err := read(t, file, Query{Revision: revision}); !fault.Is(err, fault.NotFound) {
					t.Errorf("revision %d: %v", revision, err)
				}
			}
		})
	}
}

// write fills an etcd as an API server does, and with more: several changes in one revision, a deleted range, two
// compactions, a value that fills many pages.
func write(t *testing.T, client *clientv3.Client) (compacted, newest int64) {
	t.Helper()
	put := func(key, value string) {
		_, err := client.Put(t.Context(), key, value)
		must(t, err)
	}
	for round := range 4 {
		for i := range 60 {
			name := fmt.Sprintf("n%02d", i)
			put("/registry/configmaps/default/"+name, string(stored(t, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
				Data:       map[string]string{"round": fmt.Sprint(round), "text": strings.Repeat(name, i*round)},
			})))
		}
		put("/registry/deployments/default/web", string(stored(t, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Generation: int64(round)},
		})))
		put("/registry/example.org/widgets/default/w", fmt.Sprintf(`{"apiVersion":"example.org/v1","kind":"Widget","metadata":{"name":"w","namespace":"default"},"spec":{"round":%d}}`, round))
		put("/registry/configmaps/default/large", string(stored(t, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "large", Namespace: "default"},
			Data:       map[string]string{"large": strings.Repeat(fmt.Sprint(round), 1<<20)},
		})))
		answer, err := client.Txn(t.Context()).Then(
			clientv3.OpDelete("/registry/configmaps/default/n00"), clientv3.OpDelete("/registry/deployments/default/web"),
			clientv3.OpDelete("/registry/configmaps/default/n1", clientv3.WithPrefix()), clientv3.OpPut("/other", fmt.Sprint(round)),
		).Commit()
		must(t, err)
		newest = answer.Header.Revision
		if round < 2 {
			compacted = newest - 30
			_, err := client.Compact(t.Context(), compacted, clientv3.WithCompactPhysical())
			must(t, err)
		}
	}
	return compacted, newest
}

// stored is an object as API servers store it.
func stored(t testing.TB, object runtime.Object) []byte {
	t.Helper()
	kinds, _, err := scheme.Scheme.ObjectKinds(object)
	must(t, err)
	object.GetObjectKind().SetGroupVersionKind(kinds[0])
	raw, err := runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), object)
	must(t, err)
	return raw
}

func contents(t *testing.T, file *os.File, version string, compacted, newest int64) {
	t.Helper()
	info, err := file.Stat()
	must(t, err)
	got, err := pages.Read(file, info.Size())
	must(t, err)
	want := pages.Contents{Revision: newest, Compacted: compacted, Members: []string{"m0"}, ClusterVersion: version + ".0"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("contents %+v, want %+v", got, want)
	}
}

// sameAs compares a snapshot with etcd's own answer, and reads every object.
func sameAs(t *testing.T, client *clientv3.Client, file *os.File, revision int64) {
	t.Helper()
	answer, err := client.Get(t.Context(), "", clientv3.WithFromKey(), clientv3.WithRev(revision))
	must(t, err)
	entries, err := read(t, file, Query{Revision: revision})
	must(t, err)
	var want []Entry
	for _, kv := range answer.Kvs {
		want = append(want, Entry{Key: string(kv.Key), Revision: kv.ModRevision, Created: kv.CreateRevision, Value: kv.Value})
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Key, "/registry/") {
			continue
		}
		object, err := Object(t.Context(), e, nil)
		if err != nil || !strings.HasSuffix(e.Key, "/"+object.GetName()) || object.GetResourceVersion() != fmt.Sprint(e.Revision) {
			t.Errorf("%s is %v, %v", e.Key, object, err)
		}
	}
	if len(want) < 40 || !reflect.DeepEqual(entries, want) {
		t.Errorf("revision %d: %d entries, want %d, or other ones", revision, len(entries), len(want))
	}
}
