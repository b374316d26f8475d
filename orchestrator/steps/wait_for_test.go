package steps

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/apiserver"
)

// api is the API server of all tests here; each test works in a namespace of its own.
var api apiserver.Shared

func TestWaitForHTTP(t *testing.T) {
	var asked atomic.Int32
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) {
		switch n := asked.Add(1); {
		case n == 1:
			w.WriteHeader(http.StatusBadGateway)
		case n < 4:
			_, _ = io.WriteString(w, `{"ready": false}`)
		default:
			_, _ = io.WriteString(w, `{"ready": true}`)
		}
	})
	w := newWatched()
	step := settings[WaitFor](t, `{http: {url: "`+s.URL+`/status?token=hidden", caFile: `+s.ca+`, condition: response.json.ready}, every: 100ms}`)
	r := do[waitReceipt](t, step, w.Run)
	if asked.Load() != 4 || r.What != s.URL+"/status" || r.Seen != "it answered OK" || r.Seconds <= 0 {
		t.Errorf("after %d looks: %+v", asked.Load(), r)
	}
	if said := w.said(); !strings.Contains(said, "502 Bad Gateway, want 2xx") || !strings.Contains(said, `not as expected: {"ready": false}`) || strings.Contains(said, "hidden") {
		t.Errorf("it said %s", said)
	}
	step.HTTP.ExpectStatus, step.Within = statuses{{204, 204}}, plans.Duration(300*time.Millisecond)
	_, err := step.Do(t.Context(), w.Run, nil)
	wantFault(t, err, fault.Transient, "not so within 300ms; last seen: ask "+s.URL+"/status: it answered 200 OK, want 204")
	if strings.Contains(err.Error(), "hidden") {
		t.Errorf("the query is in %v", err)
	}
}

func TestWaitForTCP(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	step := settings[WaitFor](t, `{tcp: {address: "`+address+`"}, every: 100ms, within: 300ms}`)
	w := newWatched()
	_, err = step.Do(t.Context(), w.Run, nil)
	wantFault(t, err, fault.Transient, "connection refused")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fault.Newf("run step", fault.Busy, "own", "lost"))
	_, err = step.Do(ctx, w.Run, nil)
	wantFault(t, err, fault.Busy, "lost")
	step.Within = 0
	w.Progress = tellOnce(func() {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = listener.Close() })
	})
	if r := do[waitReceipt](t, step, w.Run); r.What != address || r.Seen != "it takes connections" {
		t.Errorf("%+v", r)
	}
}

// tellOnce is a Progress that acts at the first status: when the step has looked once.
func tellOnce(act func()) *once { return &once{act: act} }

type once struct {
	watched
	act func()
}

func (o *once) Status(string) {
	if o.act != nil {
		o.act()
		o.act = nil
	}
}

// inCluster is a run with a Cluster document of the test's API server, and a client.
func inCluster(t *testing.T, namespace string) (*watched, kubernetes.Interface) {
	t.Helper()
	server := api.Need(t)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, server.Kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w := newWatched()
	w.Cluster = &plans.Cluster{Spec: plans.ClusterSpec{KubeconfigFile: file}}
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := client.Kubernetes().CoreV1().Namespaces().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w, client.Kubernetes()
}

func webMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Data: data}
}

// TestWaitForOneObject: it is not there, then lacks the field, then has another value, then the right
// one. Each look causes the next change; `every` is too long for a poll to help.
func TestWaitForOneObject(t *testing.T) {
	w, client := inCluster(t, "wait-one")
	maps := client.CoreV1().ConfigMaps("wait-one")
	changes := []func() error{
		func() error {
			_, err := maps.Create(t.Context(), webMap("one", nil), metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := maps.Update(t.Context(), webMap("one", map[string]string{"phase": planted}), metav1.UpdateOptions{})
			return err
		},
		func() error {
			_, err := maps.Update(t.Context(), webMap("one", map[string]string{"phase": "done"}), metav1.UpdateOptions{})
			return err
		},
	}
	var said []string
	w.Progress = &listening{heard: func(text string) {
		said = append(said, text)
		if len(changes) > 0 {
			if err := changes[0](); err != nil {
				t.Error(err)
			}
			changes = changes[1:]
		}
	}}
	step := settings[WaitFor](t, `{objects: {apiVersion: v1, kind: ConfigMap, namespace: wait-one, name: one}, condition: object.data.phase == "done", every: 1h}`)
	r := do[waitReceipt](t, step, w.Run)
	if r.What != "ConfigMap one in wait-one" || r.Seen != "1 objects, the condition holds" || len(said) != 4 {
		t.Errorf("%+v after %q", r, said)
	}
	for i, want := range []string{"0 objects", "1 objects, evaluate condition", "1 objects, the condition does not hold", "holds"} {
		if i < len(said) && !strings.Contains(said[i], want) {
			t.Errorf("look %d said %s", i, said[i])
		}
	}
	noSecret(t, "progress", strings.Join(said, "\n"))
}

// listening is a Progress that hears every status.
type listening struct {
	watched
	heard func(string)
}

func (l *listening) Status(text string) { l.heard(text) }

func TestWaitForSeveralObjects(t *testing.T) {
	w, client := inCluster(t, "wait-several")
	maps := client.CoreV1().ConfigMaps("wait-several")
	w.Progress = tellOnce(func() {
		for _, name := range []string{"a", "b"} {
			if _, err := maps.Create(t.Context(), webMap(name, map[string]string{"n": name}), metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	step := settings[WaitFor](t, `{objects: {apiVersion: v1, kind: ConfigMap, namespace: wait-several, selector: app=web}, condition: 'size(objects) == 2 && objects.all(o, o.data.n == o.metadata.name)', every: 1h}`)
	if r := do[waitReceipt](t, step, w.Run); r.Seen != "2 objects, the condition holds" {
		t.Errorf("%+v", r)
	}
	step.Condition, step.Within = "size(objects) == 3", plans.Duration(500*time.Millisecond)
	_, err := step.Do(t.Context(), w.Run, nil)
	wantFault(t, err, fault.Transient, "ConfigMap app=web in wait-several: not so within 500ms; last seen: 2 objects, the condition does not hold")
	for _, name := range []string{"a", "b"} {
		if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	step = settings[WaitFor](t, `{objects: {apiVersion: v1, kind: ConfigMap, namespace: wait-several, name: a}, condition: object == null}`)
	do[waitReceipt](t, step, w.Run)
}

// TestWaitForWhatIsNotServedYet: a kind whose definition comes later, in a cluster without namespaces.
func TestWaitForWhatIsNotServedYet(t *testing.T) {
	w, client := inCluster(t, "wait-kind")
	const definition = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"ships.wait.example"},
"spec":{"group":"wait.example","scope":"Cluster","names":{"plural":"ships","kind":"Ship","singular":"ship","listKind":"ShipList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`
	post := func(path, body string) error {
		return client.CoreV1().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error()
	}
	var seen []string
	w.Progress = &listening{heard: func(text string) {
		seen = append(seen, text)
		if len(seen) == 1 {
			if err := post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition); err != nil {
				t.Error(err)
			}
		}
		if strings.Contains(text, "0 objects") {
			if err := post("/apis/wait.example/v1/ships", `{"apiVersion":"wait.example/v1","kind":"Ship","metadata":{"name":"one"},"tons":3}`); err != nil {
				t.Error(err)
			}
		}
	}}
	step := settings[WaitFor](t, `{objects: {apiVersion: wait.example/v1, kind: Ship, name: one}, condition: object.tons == 3, every: 100ms}`)
	do[waitReceipt](t, step, w.Run)
	if !strings.Contains(seen[0], "does not serve it") {
		t.Errorf("it said %q", seen)
	}
	wantFault(t, settings[WaitFor](t, `{objects: {apiVersion: wait.example/v1, kind: Shop}, condition: "true"}`).Check(t.Context(), w.Run), fault.Invalid, "no such kind; it has Ship")
	wantFault(t, settings[WaitFor](t, `{objects: {apiVersion: wait.example/v1, kind: Ship, namespace: a}, condition: "true"}`).Check(t.Context(), w.Run), fault.Invalid, "not in a namespace")
	wantFault(t, settings[WaitFor](t, `{objects: {apiVersion: v1, kind: Pod, name: a}, condition: "true"}`).Check(t.Context(), w.Run), fault.Invalid, "in which namespace")
}

func TestWaitForCheck(t *testing.T) {
	const pods = `objects: {apiVersion: v1, kind: Pod}`
	for _, c := range []struct {
		with, text string
		kind       fault.Kind
	}{
		{`{}`, "exactly one of objects, http and tcp", fault.Invalid},
		{`{tcp: {address: "h:1"}, http: {url: "https://h"}}`, "exactly one of objects, http and tcp", fault.Invalid},
		{`{tcp: {address: "h:1"}, condition: "true"}`, "go together", fault.Invalid},
		{`{` + pods + `}`, "go together", fault.Invalid},
		{`{` + pods + `, condition: "object == null"}`, "unknown name", fault.Invalid},
		{`{` + pods + `, condition: "size(objects)"}`, "want bool", fault.Invalid},
		{`{` + pods + `, condition: "size(objects"}`, "Syntax error", fault.Invalid},
		{`{objects: {apiVersion: v1}, condition: "true"}`, "kind is missing", fault.Invalid},
		{`{objects: {apiVersion: v1, kind: Pod, namespace: a/b}, condition: "true"}`, "may not contain", fault.Invalid},
		{`{objects: {apiVersion: v1, kind: Pod, name: a, selector: b}, condition: "true"}`, "at most one", fault.Invalid},
		{`{objects: {apiVersion: v1, kind: Pod, selector: "b in c"}, condition: "true"}`, "selector", fault.Invalid},
		{`{` + pods + `, condition: "true"}`, "no such file", fault.NotFound}, // the kubeconfig
		{`{tcp: {address: here}}`, "host:port", fault.Invalid},
		{`{tcp: {address: "h:1"}, every: 1ms}`, "at least 100ms", fault.Invalid},
		{`{http: {url: nowhere}}`, "https://host", fault.Invalid},
		{`{http: {url: "https://h", condition: "object == null"}}`, "unknown name", fault.Invalid},
		{`{http: {url: "https://h", caFile: /none}}`, "no such file", fault.NotFound},
	} {
		w := newWatched()
		w.Cluster = &plans.Cluster{Spec: plans.ClusterSpec{KubeconfigFile: "/none/kubeconfig"}}
		wantFault(t, settings[WaitFor](t, c.with).Check(t.Context(), w.Run), c.kind, c.text)
	}
}
