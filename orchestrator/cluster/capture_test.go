package cluster

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/providers/fault"
)

const widgets = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
"metadata":{"name":"widgets.%[1]s"},"spec":{"group":"%[1]s","scope":"Namespaced",
"names":{"plural":"widgets","singular":"widget","kind":"Widget","listKind":"WidgetList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

func newWidgets(t testing.TB, client *Client, group string) string {
	t.Helper()
	create(t, client, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", object(t, fmt.Sprintf(widgets, group)))
	path := "/apis/" + group + "/v1/namespaces/%s/widgets"
	eventually(t, "the custom resource is served", func() bool {
		return client.call(t.Context(), request{method: http.MethodGet, path: "/apis/" + group + "/v1/widgets"}, nil) == nil
	})
	return path
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !holds() {
		if sleep(ctx, 50*time.Millisecond) != nil {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestCaptureStoresEveryKindFaithfully(t *testing.T) {
	client := connect(t, shared.Need(t))
	newNamespace(t, client, "faithful")
	made := create(t, client, "/api/v1/namespaces/faithful/secrets", secret("token", map[string]any{"a": "line\nline\n"}))
	path := newWidgets(t, client, "faithful.example.org")
	create(t, client, fmt.Sprintf(path, "faithful"), object(t,
		`{"apiVersion":"faithful.example.org/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"count":12345678901234567,"text":"yes"}}`))
	captured, store := captureAll(t, client, nil)

	index := store.index(t, captured)
	entry, found := index["core/secrets/faithful/token"]
	if !found || entry.UID != made.uid() || entry.ResourceVersion != made.text("metadata", "resourceVersion") {
		t.Fatalf("the index has %+v", entry)
	}
	made["kind"], made["apiVersion"] = "Secret", "v1"
	if entry.Digest != Digest(made) {
		t.Error("the digest is not that of the object")
	}
	var file Object
	if err := yaml.Unmarshal(store.objects[entry.ID], &file); err != nil {
		t.Fatal(err)
	}
	delete(made.metadata(), "resourceVersion")
	delete(made.metadata(), "managedFields")
	if got, want := toJSON(t, file), toJSON(t, made); got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
	widget := index["faithful.example.org/widgets/faithful/w"]
	if text := string(store.objects[widget.ID]); !strings.Contains(text, "count: 12345678901234567\n") || !strings.Contains(text, `text: "yes"`) {
		t.Errorf("the custom resource is stored as\n%s", text)
	}
	for _, key := range []string{"rbac.authorization.k8s.io/clusterroles//system:node", "core/namespaces//faithful",
		"apiextensions.k8s.io/customresourcedefinitions//widgets.faithful.example.org"} {
		if _, found := index[key]; !found {
			t.Errorf("%s is missing", key)
		}
	}
	if captured.Layer.Objects != len(index) || captured.Namespaces.Files+captured.Cluster.Files != len(index) {
		t.Errorf("counted %d objects and %d+%d files, the index has %d", captured.Layer.Objects,
			captured.Cluster.Files, captured.Namespaces.Files, len(index))
	}
	paths := map[string]bool{}
	for _, file := range store.trees[captured.Namespaces.ID] {
		paths[file.Path] = true
	}
	if !paths["faithful/core/Secret/token.yaml"] || !paths["faithful/faithful.example.org/Widget/w.yaml"] {
		t.Errorf("paths are %v", keysOf(paths))
	}
	if !slices.ContainsFunc(captured.Layer.Left, func(l leftOut) bool { return l.Subject == "events.core" }) {
		t.Errorf("left out: %v", captured.Layer.Left)
	}
}

// TestCaptureIsAnExactCut captures at a revision while a writer goes on creating and deleting.
func TestCaptureIsAnExactCut(t *testing.T) {
	client := connect(t, shared.Need(t))
	newNamespace(t, client, "cut")
	path := newWidgets(t, client, "cut.example.org")
	kinds := map[string]string{
		"core/secrets": "/api/v1/namespaces/cut/secrets", "core/configmaps": "/api/v1/namespaces/cut/configmaps",
		"cut.example.org/widgets": fmt.Sprintf(path, "cut"),
	}
	widget := func(kind, name string) Object {
		o := Object{"metadata": map[string]any{"name": name}}
		if kind == "cut.example.org/widgets" {
			o["apiVersion"], o["kind"] = "cut.example.org/v1", "Widget"
		}
		return o
	}
	for i := range 700 { // more than one page
		for kind, path := range kinds {
			create(t, client, path, widget(kind, fmt.Sprintf("before-%03d", i)))
		}
	}
	revision, err := client.newestRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			for kind, path := range kinds {
				body := appendCanonical(nil, widget(kind, fmt.Sprintf("after-%03d", i)))
				if err := client.call(t.Context(), request{method: http.MethodPost, path: path, body: body}, nil); err != nil {
					ended <- err
					return
				}
				remove := request{method: http.MethodDelete, path: fmt.Sprintf("%s/before-%03d", path, i)}
				if err := client.call(t.Context(), remove, nil); i < 700 && err != nil {
					ended <- err
					return
				}
			}
			if i == 5 {
				close(started)
			}
		}
		ended <- nil
	}()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	captured, store := captureAll(t, client, func(c *CaptureConfig) { c.Revision = revision })
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for key := range store.index(t, captured) {
		if strings.Contains(key, "/after-") {
			t.Errorf("%s was created after revision %d", key, revision)
		}
		if kind, _, found := strings.Cut(key, "/cut/before-"); found {
			counts[kind]++
		}
	}
	for kind := range kinds {
		if counts[kind] != 700 {
			t.Errorf("%d of 700 %s that lived at revision %d", counts[kind], kind, revision)
		}
	}
	if captured.Layer.Revision != revision {
		t.Errorf("revision is %d, want %d", captured.Layer.Revision, revision)
	}
}

func TestCaptureFilters(t *testing.T) {
	client := connect(t, shared.Need(t))
	for _, name := range []string{"filter-a", "filter-b", "other"} {
		newNamespace(t, client, name)
		create(t, client, "/api/v1/namespaces/"+name+"/secrets", secret("s", nil))
		create(t, client, "/api/v1/namespaces/"+name+"/configmaps", secret("c", nil))
	}
	captured, store := captureAll(t, client, func(c *CaptureConfig) {
		c.Include, c.Exclude, c.ExcludeKinds = []string{"filter-*"}, []string{"*-b"}, []string{"configmaps", "*.rbac.authorization.k8s.io"}
	})
	index := store.index(t, captured)
	for key, want := range map[string]bool{
		"core/secrets/filter-a/s": true, "core/secrets/filter-b/s": false, "core/secrets/other/s": false,
		"core/configmaps/filter-a/c": false, "core/namespaces//filter-a": true, "core/namespaces//filter-b": false,
		"rbac.authorization.k8s.io/clusterroles//admin": false,
	} {
		if _, found := index[key]; found != want {
			t.Errorf("%s: captured is %v, want %v", key, found, want)
		}
	}
	var left []string
	for _, l := range captured.Layer.Left {
		left = append(left, l.Subject)
	}
	for _, want := range []string{"configmaps.core", "namespace *-b", "namespaces other than filter-*"} {
		if !slices.Contains(left, want) {
			t.Errorf("%q is not among what was left out: %v", want, left)
		}
	}
	if _, err := Capture(t.Context(), CaptureConfig{Selection: Selection{Exclude: []string{"["}}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bad pattern gives %v", err)
	}
}

// BenchmarkCapture captures 20,000 Secrets and what else is there.
func BenchmarkCapture(b *testing.B) {
	client := connect(b, shared.Need(b))
	fill(b, client, "bench", 20000)
	progress := &counted{}
	for b.Loop() {
		_, err := Capture(b.Context(), CaptureConfig{Client: client, Store: discard{}, Progress: progress, Now: time.Now})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(progress.items)/b.Elapsed().Seconds(), "objects/s")
}
