package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/apiserver"
)

// encryption has every provider that needs no plugin, and one name for two keys.
const encryption = `
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - aescbc: {keys: [{name: key1, secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}]}
      - identity: {}
  - resources: [configmaps]
    providers:
      - aesgcm: {keys: [{name: key1, secret: ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=}]}
  - resources: [serviceaccounts]
    providers:
      - aescbc: {keys: [{name: key1, secret: QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=}]}
  - resources: [deployments.apps, widgets.example.org]
    providers:
      - secretbox: {keys: [{name: "a:b", secret: YGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn8=}]}
`

// cluster is a real API server with encryption at rest.
type cluster struct {
	server *apiserver.Server
	client dynamic.Interface
}

var (
	secrets     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	accounts    = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	services    = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	widgets     = schema.GroupVersionResource{Group: "example.org", Version: "v1", Resource: "widgets"}
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	roles       = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}
)

// shared is the server of all tests.
var shared = apiserver.Shared{Config: apiserver.Config{Encryption: []byte(encryption)}}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func need(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{server: shared.Need(t)}
	config, err := clientcmd.RESTConfigFromKubeConfig(c.server.Kubeconfig)
	must(t, err)
	c.client, err = dynamic.NewForConfig(config)
	must(t, err)
	return c
}

// define makes the kind Widget.
func (c *cluster) define(t *testing.T) {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(c.server.Kubeconfig)
	must(t, err)
	defined, err := extensions.NewForConfig(config)
	must(t, err)
	all, preserve := defined.ApiextensionsV1().CustomResourceDefinitions(), true
	crd, err := all.Create(t.Context(), &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.org"},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: "example.org", Scope: apiextensions.NamespaceScoped, Names: apiextensions.CustomResourceDefinitionNames{Plural: "widgets", Kind: "Widget"},
			Versions: []apiextensions.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensions.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensions.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve},
			}}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	w, err := all.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + crd.Name})
	must(t, err)
	defer w.Stop()
	for event := range w.ResultChan() {
		for _, condition := range event.Object.(*apiextensions.CustomResourceDefinition).Status.Conditions {
			if condition.Type == apiextensions.Established && condition.Status == apiextensions.ConditionTrue {
				return
			}
		}
	}
	t.Fatal("the definition is not established")
}

// put creates an object, or updates it.
func (c *cluster) put(t *testing.T, r schema.GroupVersionResource, kind, name string, fields map[string]any) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{Object: fields}
	object.SetGroupVersionKind(r.GroupVersion().WithKind(kind))
	object.SetName(name)
	object.SetNamespace("default")
	out, err := c.client.Resource(r).Namespace("default").Apply(t.Context(), name, object, metav1.ApplyOptions{FieldManager: "test", Force: true})
	must(t, err)
	return out
}

// snapshot is a file as etcdctl makes it.
func (c *cluster) snapshot(t *testing.T) *os.File {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.server.Etcd}})
	must(t, err)
	defer client.Close()
	return snapshotOf(t, client)
}

func snapshotOf(t *testing.T, client *clientv3.Client) *os.File {
	t.Helper()
	from, err := client.Snapshot(t.Context())
	must(t, err)
	defer from.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "snapshot.db"))
	must(t, err)
	t.Cleanup(func() { file.Close() })
	_, err = io.Copy(file, from)
	must(t, err)
	return file
}

func read(t *testing.T, file *os.File, q Query) (entries []Entry, err error) {
	t.Helper()
	info, err := file.Stat()
	must(t, err)
	err = Read(t.Context(), file, info.Size(), q, func(e Entry) error {
		entries = append(entries, e)
		return nil
	})
	return entries, err
}

// TestSnapshotAgreesWithAPI compares every object of several kinds, most of them encrypted at rest, with what the API
// server answers.
func TestSnapshotAgreesWithAPI(t *testing.T) {
	c := need(t)
	c.define(t)
	for i := range 40 {
		name := fmt.Sprintf("n%02d", i)
		c.put(t, secrets, "Secret", name, map[string]any{"stringData": map[string]any{"password": strings.Repeat(name, i)}})
		c.put(t, configMaps, "ConfigMap", name, map[string]any{"data": map[string]any{"a": name, "lines": "one\ntwo\n"}, "binaryData": map[string]any{"b": "AAEC"}})
		c.put(t, widgets, "Widget", name, map[string]any{"spec": map[string]any{"size": int64(i), "ratio": 1.5, "nested": []any{map[string]any{"deep": true}, nil}}})
	}
	c.put(t, accounts, "ServiceAccount", "builder", map[string]any{})
	c.put(t, services, "Service", "web", map[string]any{"spec": map[string]any{"ports": []any{map[string]any{"port": int64(80), "targetPort": "http"}}}})
	c.put(t, deployments, "Deployment", "web", map[string]any{"spec": map[string]any{
		"replicas": int64(0), "selector": map[string]any{"matchLabels": map[string]any{"app": "web"}},
		"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "web"}}, "spec": map[string]any{"containers": []any{map[string]any{
			"name": "web", "image": "nginx", "resources": map[string]any{"limits": map[string]any{"cpu": "500m", "memory": "1Gi"}},
		}}}},
	}})
	file := c.snapshot(t)
	entries, err := read(t, file, Query{})
	must(t, err)
	keys, err := ReadKeys(t.Context(), []byte(encryption))
	must(t, err)
	found := map[string]*unstructured.Unstructured{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Key, "/registry/") {
			continue
		}
		object, err := Object(t.Context(), e, keys)
		if err != nil {
			t.Errorf("%s: %v", e.Key, err)
			continue
		}
		found[identity(object)] = object
	}
	for _, r := range []schema.GroupVersionResource{secrets, configMaps, accounts, services, deployments, widgets, definitions, roles} {
		list, err := c.client.Resource(r).List(t.Context(), metav1.ListOptions{})
		must(t, err)
		if len(list.Items) == 0 {
			t.Errorf("there are no %s", r.Resource)
		}
		for _, want := range list.Items {
			got := found[identity(&want)]
			if got == nil {
				t.Errorf("%s is not found", identity(&want))
			} else if !reflect.DeepEqual(plain(t, got), plain(t, &want)) {
				t.Errorf("%s is\n%v, want\n%v", identity(&want), plain(t, got), plain(t, &want))
			}
		}
	}
	wrongKeys(t, entries)
}

// wrongKeys opens nothing, and says whose key is missing or wrong.
func wrongKeys(t *testing.T, entries []Entry) {
	t.Helper()
	other, err := ReadKeys(t.Context(), []byte(strings.NewReplacer("AAECAwQF", "BBECAwQF", "QEFCQ0RF", "RRFCQ0RF", "a:b", "other").Replace(encryption)))
	must(t, err)
	refused := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Key, "/registry/secrets/") && !strings.HasPrefix(e.Key, "/registry/deployments/") {
			continue
		}
		for _, keys := range []*Keys{nil, other} {
			_, err := Object(t.Context(), e, keys)
			if !fault.Is(err, fault.Denied) || strings.Contains(err.Error(), "BBECAwQF") {
				t.Errorf("%s: %v", e.Key, err)
			}
			refused++
		}
	}
	if refused < 80 {
		t.Errorf("%d refusals", refused)
	}
}

func identity(o *unstructured.Unstructured) string {
	return o.GroupVersionKind().Group + "/" + o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// plain is an object as JSON has it: numbers of one kind.
func plain(t *testing.T, o *unstructured.Unstructured) any {
	t.Helper()
	raw, err := json.Marshal(o)
	must(t, err)
	var out map[string]any
	must(t, json.Unmarshal(raw, &out))
	return out
}

// TestHistory reads every change of one object, and the object as of a moment.
func TestHistory(t *testing.T) {
	c := need(t)
	var versions []string
	for i := range 3 {
		versions = append(versions, c.put(t, configMaps, "ConfigMap", "prices", map[string]any{"data": map[string]any{"milk": fmt.Sprint(i)}}).GetResourceVersion())
	}
	must(t, c.client.Resource(configMaps).Namespace("default").Delete(t.Context(), "prices", metav1.DeleteOptions{}))
	c.put(t, configMaps, "ConfigMap", "prices", map[string]any{"data": map[string]any{"milk": "new"}})
	file := c.snapshot(t)
	keys, err := ReadKeys(t.Context(), []byte(encryption))
	must(t, err)
	wanted := func(key string) bool { return key == "/registry/configmaps/default/prices" }
	milk := func(entries []Entry) (out []string) {
		for _, e := range entries {
			if e.Deleted {
				out = append(out, "deleted")
				continue
			}
			object, err := Object(t.Context(), e, keys)
			must(t, err)
			value, _, _ := unstructured.NestedString(object.Object, "data", "milk")
			out = append(out, value)
		}
		return out
	}
	all, err := read(t, file, Query{Wanted: wanted, History: true})
	must(t, err)
	if got := strings.Join(milk(all), " "); got != "0 1 2 deleted new" {
		t.Errorf("the history is %q", got)
	}
	var second int64
	_, err = fmt.Sscan(versions[1], &second)
	must(t, err)
	then, err := read(t, file, Query{Wanted: wanted, Revision: second})
	must(t, err)
	if got := milk(then); len(got) != 1 || got[0] != "1" || fmt.Sprint(then[0].Revision) != versions[1] {
		t.Errorf("at revision %d: %q", second, got)
	}
	gone, err := read(t, file, Query{Wanted: wanted, Revision: all[3].Revision})
	if must(t, err); len(gone) != 0 {
		t.Errorf("when it was deleted: %v", gone)
	}
	if _, err := read(t, file, Query{Revision: 1 << 40}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a revision to come: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, text := range []string{"", "kind: Secret", "kind: EncryptionConfiguration\nresources: 5", strings.ReplaceAll(encryption, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "planted-no-base64"),
		strings.ReplaceAll(encryption, "YGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn8=", "AAEC")} {
		_, err := ReadKeys(t.Context(), []byte(text))
		if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := Read(t.Context(), bytes.NewReader(make([]byte, 100)), 100, Query{}, func(Entry) error { return nil }); !fault.Is(err, fault.Corrupt) {
		t.Errorf("no database: %v", err)
	}
	for stored, kind := range map[string]fault.Kind{
		"k8s\x00\xff\xff": fault.Corrupt, "{": fault.Corrupt, "12": fault.Unsupported, "": fault.Unsupported, "k8s:enc:": fault.Denied,
		"k8s:enc:kms:v2:vault:\x01": fault.Denied, "k8s:enc:aescbc:v1:key1:short": fault.Denied,
		"k8s\x00\n\x12\n\x0bexample.org\x12\x03Foo\x12\x00": fault.Unsupported,
	} {
		if _, err := Object(context.Background(), Entry{Key: "/registry/x", Value: []byte(stored)}, nil); !fault.Is(err, kind) {
			t.Errorf("%q: %v (%s), want %s", stored, err, fault.KindOf(err), kind)
		}
	}
}

// TestKeyOf finds a record's key where etcd writes it, and where another writer may.
func TestKeyOf(t *testing.T) {
	for raw, want := range map[string]string{"\n\x01k\x10\x05": "k", "\x10\x05\n\x01k": "k", "": "", "\n\x05k": "corrupt", "\xff": "corrupt"} {
		key, err := keyOf(5, []byte(raw))
		if got := string(key); err == nil && got != want || err != nil && (want != "corrupt" || !fault.Is(err, fault.Corrupt)) {
			t.Errorf("%q: key %q, %v", raw, got, err)
		}
	}
}

// FuzzStoredObject reads anything: an object that can be printed, or an error that says why not.
func FuzzStoredObject(f *testing.F) {
	keys, err := ReadKeys(f.Context(), []byte(encryption))
	if err != nil {
		f.Fatal(err)
	}
	seal := func(mark string, clear []byte) []byte {
		raw, err := keys.transformers[mark][0].(value.Transformer).TransformToStorage(f.Context(), clear, value.DefaultContext("/registry/a/b/c"))
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte(mark), raw...)
	}
	kms := newVault("kept")
	keys.transformers["k8s:enc:kms:v2:vault:"] = []value.Read{kms.transformer(f)}
	clear := stored(f, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"a": "b"}})
	f.Add(clear)
	f.Add(stored(f, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "a", ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: metav1.NewFieldsV1("{}")}}}}))
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`))
	f.Add([]byte(`{"apiVersion":"apiextensions.k8s.io/v1beta1","kind":"CustomResourceDefinition","metadata":{"name":"a"},"spec":{"version":"v1"}}`))
	f.Add(seal("k8s:enc:kms:v2:vault:", clear))
	f.Add(seal("k8s:enc:aescbc:v1:key1:", clear))
	f.Add(seal("k8s:enc:aesgcm:v1:key1:", clear))
	f.Add(seal("k8s:enc:secretbox:v1:a:b:", clear))
	f.Fuzz(func(t *testing.T, stored []byte) {
		object, err := Object(t.Context(), Entry{Key: "/registry/a/b/c", Revision: 1, Value: stored}, keys)
		if err == nil {
			printable(t, object)
			return
		}
		if !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Unsupported) && !fault.Is(err, fault.Corrupt) {
			t.Fatalf("an error of kind %v: %v", fault.KindOf(err), err)
		}
	})
}

// TestYAML prints texts that look like something else, or do not like YAML.
func TestYAML(t *testing.T) {
	for _, text := range []string{
		"", " ", "~", "on", "No", "y", "=", "<<", "0x1F", "012", "1_000", "1e3", "12:30:00", "2001-01-01", ".inf", "null", "- a", "a: b", "#", "@", "%", "!a", "&a", "*a",
		"\n", "\n a", " a\nb", "a\n\n", "a\n  b\n", "\ta\n\tb", "a\r\nb", "a \nb", "---\na", "...", "\x00", "\x7f", "\u0085", "\u009f", "\u2028", "\ufeffa", "\ufffe", "🙂", strings.Repeat("long ", 100),
	} {
		printable(t, &unstructured.Unstructured{Object: map[string]any{"data": map[string]any{"a": text, "b": []any{text}, "k" + text: "v"}, "n": int64(1) << 60, "f": 1.5}})
	}
}

// printable reads what is printed, and wants the same object.
func printable(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	text, err := YAML(object)
	must(t, err)
	var got map[string]any
	if err := yaml.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	if !reflect.DeepEqual(plain(t, &unstructured.Unstructured{Object: got}), plain(t, object)) {
		t.Fatalf("%v is read back as %v: %q", object, got, text)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
