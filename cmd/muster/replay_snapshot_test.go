package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/testenv/apiserver"
)

// sealedBy is an EncryptionConfiguration by which Secrets are encrypted with a key.
func sealedBy(key string) string {
	return fmt.Sprintf(`{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],
		"providers":[{"secretbox":{"keys":[{"name":"one","secret":%q}]}}]}]}`, base64.StdEncoding.EncodeToString([]byte(key)))
}

const snapshotPlans = `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: relative}
spec:
  purpose: migrate
  steps:
    - {id: apps, uses: replay-namespaces, with: {include: [shop], etcdSnapshot: {file: backup.db}}}
`

// snapshotReplay is a cluster whose Secrets are encrypted at rest, with two namespaces that were changed
// after a revision, and a snapshot of its etcd from after the changes.
type snapshotReplay struct {
	t        *testing.T
	server   *apiserver.Server
	api      kubernetes.Interface
	desk     *desk
	revision string
	then     map[string]string // the shop's objects at the revision
}

func newSnapshotReplay(t *testing.T) *snapshotReplay {
	t.Helper()
	key := strings.Repeat("k", 32)
	s := &snapshotReplay{t: t, server: apiserver.Need(t, apiserver.Config{Encryption: []byte(sealedBy(key))})}
	s.desk = clusterDesk(t, s.server.Kubeconfig, snapshotPlans)
	for name, content := range map[string]string{"encryption.yaml": sealedBy(key), "other-key.yaml": sealedBy(strings.Repeat("o", 32))} {
		s.must(os.WriteFile(s.desk.path(name), []byte(content), 0o600))
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(s.server.Kubeconfig)
	s.must(err)
	s.api, err = kubernetes.NewForConfig(config)
	s.must(err)
	s.seed()
	s.snapshot("backup.db")
	return s
}

func (s *snapshotReplay) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *snapshotReplay) seed() {
	for _, namespace := range []string{"shop", "other"} {
		_, err := s.api.CoreV1().Namespaces().Create(s.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		s.must(err)
		for _, name := range []string{"prices", "gone"} {
			s.put(namespace, name, "then")
		}
		for _, name := range []string{"db", "lost"} {
			_, err = s.api.CoreV1().Secrets(namespace).Create(s.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"a": "then"}}, metav1.CreateOptions{})
			s.must(err)
		}
		_, err = s.api.CoreV1().Services(namespace).Create(s.t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
		s.must(err)
	}
	list, err := s.api.CoreV1().ConfigMaps("").List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	s.revision, s.then = list.ResourceVersion, s.contents()
	for _, namespace := range []string{"shop", "other"} {
		s.change(namespace)
	}
}

// put creates a ConfigMap.
func (s *snapshotReplay) put(namespace, name, value string) {
	s.t.Helper()
	_, err := s.api.CoreV1().ConfigMaps(namespace).Create(s.t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": value}}, metav1.CreateOptions{})
	s.must(err)
}

// change is what somebody has done to a namespace since the revision: all that was there is changed or gone.
func (s *snapshotReplay) change(namespace string) {
	s.t.Helper()
	ctx := s.t.Context()
	core := s.api.CoreV1()
	prices, err := core.ConfigMaps(namespace).Get(ctx, "prices", metav1.GetOptions{})
	s.must(err)
	prices.Data = map[string]string{"a": "since", "b": "more"}
	_, err = core.ConfigMaps(namespace).Update(ctx, prices, metav1.UpdateOptions{})
	s.must(err)
	db, err := core.Secrets(namespace).Get(ctx, "db", metav1.GetOptions{})
	s.must(err)
	db.Data["a"] = []byte("since")
	_, err = core.Secrets(namespace).Update(ctx, db, metav1.UpdateOptions{})
	s.must(err)
	web, err := core.Services(namespace).Get(ctx, "web", metav1.GetOptions{})
	s.must(err)
	web.Spec.Ports[0].Port = 81
	_, err = core.Services(namespace).Update(ctx, web, metav1.UpdateOptions{})
	s.must(err)
	for _, err := range []error{
		core.ConfigMaps(namespace).Delete(ctx, "gone", metav1.DeleteOptions{}), core.Secrets(namespace).Delete(ctx, "lost", metav1.DeleteOptions{}),
	} {
		if !apierrors.IsNotFound(err) {
			s.must(err)
		}
	}
}

// snapshot takes one of the API server's etcd.
func (s *snapshotReplay) snapshot(name string) {
	s.t.Helper()
	file, err := os.Create(s.desk.path(name))
	s.must(err)
	defer file.Close()
	_, err = etcd.Snapshot(s.t.Context(), etcd.Access{}, s.server.Etcd, file)
	s.must(err)
}

// objects are a namespace's, by kind and name.
func (s *snapshotReplay) objects(namespace string) map[string]metav1.Object {
	s.t.Helper()
	found := map[string]metav1.Object{}
	maps, err := s.api.CoreV1().ConfigMaps(namespace).List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	for i := range maps.Items {
		found["ConfigMap/"+maps.Items[i].Name] = &maps.Items[i]
	}
	secrets, err := s.api.CoreV1().Secrets(namespace).List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	for i := range secrets.Items {
		found["Secret/"+secrets.Items[i].Name] = &secrets.Items[i]
	}
	services, err := s.api.CoreV1().Services(namespace).List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	for i := range services.Items {
		found["Service/"+services.Items[i].Name] = &services.Items[i]
	}
	return found
}

// contents are the objects of the shop without what an API server gives a new one.
func (s *snapshotReplay) contents() map[string]string {
	s.t.Helper()
	texts := map[string]string{}
	for key, o := range s.objects("shop") {
		o.SetUID("")
		o.SetResourceVersion("")
		o.SetCreationTimestamp(metav1.Time{})
		o.SetManagedFields(nil)
		text, err := json.Marshal(o)
		s.must(err)
		texts[key] = string(text)
	}
	return texts
}

// versions change with every write.
func (s *snapshotReplay) versions(namespace string) map[string]string {
	s.t.Helper()
	found := map[string]string{}
	for key, o := range s.objects(namespace) {
		found[key] = o.GetResourceVersion()
	}
	return found
}

// replay runs muster replay of the shop out of the snapshot.
func (s *snapshotReplay) replay(args ...string) (printed string, code int) {
	s.t.Helper()
	printed, said, err := s.desk.muster(s.t.Context(), append([]string{"replay", "--namespace", "shop", "--revision", s.revision, "--on-conflict", "replace"}, args...)...)
	text := printed + said
	if err != nil {
		text += err.Error()
	}
	return text, exitCode(err)
}

// differ lists the keys in which two states differ.
func differ(before, after map[string]string) []string {
	var keys []string
	for key := range maps.Keys(before) {
		if after[key] != before[key] {
			keys = append(keys, key)
		}
	}
	for key := range after {
		if _, known := before[key]; !known {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// TestReplayFromSnapshot puts a namespace back as it was at a revision, out of a snapshot of etcd that was
// taken later, with Secrets encrypted at rest.
func TestReplayFromSnapshot(t *testing.T) {
	s := newSnapshotReplay(t)
	from, key := s.desk.path("backup.db"), s.desk.path("encryption.yaml")
	other := s.versions("other")

	before := s.versions("shop")
	diff, code := s.replay("--from-etcd-snapshot", from, "--encryption-config", key, "--diff")
	if code != exitOK || !strings.Contains(diff, "prices") || !strings.Contains(diff, "+  a: then") || strings.Contains(diff, base64.StdEncoding.EncodeToString([]byte("then"))) {
		t.Errorf("--diff ended with %d: %s", code, diff)
	}
	if changed := differ(before, s.versions("shop")); len(changed) > 0 {
		t.Errorf("--diff changed %v", changed)
	}

	if said, code := s.replay("--from-etcd-snapshot", from, "--encryption-config", key, "--kind", "configmaps", "--name", "prices"); code != exitOK {
		t.Errorf("of one object: %d: %s", code, said)
	}
	if changed := differ(before, s.versions("shop")); !slices.Equal(changed, []string{"ConfigMap/prices"}) || s.contents()["ConfigMap/prices"] != s.then["ConfigMap/prices"] {
		t.Errorf("a replay of one object changed %v: %v", changed, s.contents())
	}

	s.change("shop")
	s.withoutKey(from)

	s.change("shop")
	s.put("shop", "later", "since")
	if said, code := s.replay("--from-etcd-snapshot", from, "--encryption-config", key); code != exitOK {
		t.Errorf("of all: %d: %s", code, said)
	}
	if left := differ(s.then, s.contents()); !slices.Equal(left, []string{"ConfigMap/later"}) {
		t.Errorf("%v are not as they were: %v", left, s.contents())
	}
	if changed := differ(other, s.versions("other")); len(changed) > 0 {
		t.Errorf("the other namespace's %v were changed", changed)
	}
	s.refused()
}

// withoutKey replays with a key that is not the one of the snapshot, and with none: what can't be read is
// told, and all else comes back.
func (s *snapshotReplay) withoutKey(from string) {
	s.t.Helper()
	for name, args := range map[string][]string{"none": nil, "another": {"--encryption-config", s.desk.path("other-key.yaml")}} {
		before := s.contents()
		said, code := s.replay(append(args, "--from-etcd-snapshot", from)...)
		if code != exitIncomplete || !strings.Contains(said, "they can't be read") {
			s.t.Errorf("key %s: %d: %s", name, code, said)
		}
		after := s.contents()
		if after["ConfigMap/gone"] != s.then["ConfigMap/gone"] || after["Service/web"] != s.then["Service/web"] || after["Secret/db"] != before["Secret/db"] {
			s.t.Errorf("key %s: the shop has %v", name, after)
		}
		s.change("shop")
	}
}

// refused asks for what can't be, and nothing is changed by it.
func (s *snapshotReplay) refused() {
	s.t.Helper()
	now, err := s.api.CoreV1().ConfigMaps("").List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.server.Etcd}})
	s.must(err)
	defer client.Close()
	var revision int64
	_, err = fmt.Sscan(now.ResourceVersion, &revision)
	s.must(err)
	_, err = client.Compact(context.WithoutCancel(s.t.Context()), revision, clientv3.WithCompactPhysical())
	s.must(err)
	s.snapshot("compacted.db")
	s.must(os.WriteFile(s.desk.path("cut.db"), []byte("no snapshot"), 0o600))
	before := s.versions("shop")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--from-etcd-snapshot", s.desk.path("missing.db")}, exitNotFound, "there is no such file"},
		{[]string{"--from-etcd-snapshot", s.desk.path("compacted.db")}, exitNotFound, "no revision " + s.revision},
		{[]string{"--from-etcd-snapshot", s.desk.path("cut.db")}, exitCorrupt, "take the snapshot again"},
		{[]string{"--from-etcd-snapshot", s.desk.path("backup.db"), "--encryption-config", s.desk.path("missing.yaml")}, exitNotFound, "missing.yaml"},
		{[]string{"--from-etcd-snapshot", s.desk.path("backup.db"), "--revision", "-1"}, exitInvalid, "want a revision"},
		{nil, exitInvalid, "belong to --from-etcd-snapshot"},
	} {
		if said, code := s.replay(c.args...); code != c.code || !strings.Contains(said, c.says) {
			s.t.Errorf("%v: %d, want %d and %q: %s", c.args, code, c.code, c.says, said)
		}
	}
	if _, said, err := s.desk.muster(s.t.Context(), "run", "relative"); exitCode(err) != exitInvalid || !strings.Contains(err.Error(), "absolute path") {
		s.t.Errorf("a relative file: %v %s", err, said)
	}
	if changed := differ(before, s.versions("shop")); len(changed) > 0 {
		s.t.Errorf("what was refused changed %v", changed)
	}
}
