package steps

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

const (
	writtenIn     = "written"
	writtenAtOnce = 4                    // of each kind
	writeEvery    = 5 * time.Millisecond // of all goroutines together
)

func writtenKinds() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		{Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "secrets"}, {Version: "v1", Resource: "services"},
		{Version: "v1", Resource: "serviceaccounts"}, {Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
		{Group: "operators.coreos.com", Version: "v1alpha1", Resource: "subscriptions"},
	}
}

// writtenObject is one that the API server takes.
func writtenObject(kind schema.GroupVersionResource, name string) *unstructured.Unstructured {
	names := map[string]string{
		"configmaps": "ConfigMap", "secrets": "Secret", "services": "Service", "serviceaccounts": "ServiceAccount", "deployments": "Deployment",
		"roles": "Role", "subscriptions": "Subscription",
	}
	labels := map[string]any{"app": "written"}
	specs := map[string]map[string]any{
		"services": {"ports": []any{map[string]any{"port": int64(80)}}},
		"deployments": {"replicas": int64(0), "selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
			"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{map[string]any{"name": "app", "image": "app"}}},
		}},
		"subscriptions": {"channel": "stable", "name": "app"},
	}
	object := map[string]any{
		"apiVersion": kind.GroupVersion().String(), "kind": names[kind.Resource],
		"metadata": map[string]any{"name": name},
	}
	if spec, found := specs[kind.Resource]; found {
		object["spec"] = spec
	}
	return &unstructured.Unstructured{Object: object}
}

// writing makes, changes and deletes objects of several kinds, by several goroutines each.
type writing struct {
	api    dynamic.Interface
	pace   *time.Ticker
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu    sync.Mutex
	wrote *sync.Cond
	so    written
	err   error
}

// written is what was written so far.
type written struct {
	count  int
	newest int64 // revision
}

func startWriting(t *testing.T, api dynamic.Interface) *writing {
	t.Helper()
	namespace := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": writtenIn}}}
	namespaces := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	if _, err := api.Resource(namespaces).Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w := &writing{api: api, pace: time.NewTicker(writeEvery)}
	w.wrote = sync.NewCond(&w.mu)
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	for _, kind := range writtenKinds() {
		for writer := range writtenAtOnce {
			w.ended.Go(func() { w.write(ctx, kind, writer) })
		}
	}
	return w
}

// until waits until what was written so far will do, and returns it.
func (w *writing) until(t *testing.T, enough func(written) bool) written {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !enough(w.so) && w.err == nil {
		w.wrote.Wait()
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.so
}

func (w *writing) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	w.ended.Wait()
	w.pace.Stop()
	if w.err != nil {
		t.Fatal(w.err)
	}
}

func (w *writing) write(ctx context.Context, kind schema.GroupVersionResource, writer int) {
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-w.pace.C:
		}
		made, err := w.once(context.WithoutCancel(ctx), kind, writer, n)
		if err == nil {
			err = w.note(made)
		}
		if err != nil {
			w.fail(fmt.Errorf("write %s: %w", kind.Resource, err))
			return
		}
	}
}

// once creates an object, changes one, or deletes one, in turn.
func (w *writing) once(ctx context.Context, kind schema.GroupVersionResource, writer, n int) (*unstructured.Unstructured, error) {
	const lives = 8 // rounds
	in, round := w.api.Resource(kind).Namespace(writtenIn), n/3
	name := func(round int) string { return fmt.Sprintf("written-%d-%05d", writer, round) }
	switch {
	case n%3 == 1:
		change := fmt.Appendf(nil, `{"metadata":{"labels":{"changed":"at-%d"}}}`, n)
		return in.Patch(ctx, name(max(0, round-2)), types.MergePatchType, change, metav1.PatchOptions{})
	case n%3 == 2 && round >= lives:
		return nil, in.Delete(ctx, name(round-lives), metav1.DeleteOptions{})
	case n%3 == 2:
		return nil, nil
	}
	return in.Create(ctx, writtenObject(kind, name(round)), metav1.CreateOptions{})
}

func (w *writing) note(made *unstructured.Unstructured) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.wrote.Broadcast()
	w.so.count++
	if made == nil {
		return nil
	}
	revision, err := strconv.ParseInt(made.GetResourceVersion(), 10, 64)
	w.so.newest = max(w.so.newest, revision)
	return err
}

func (w *writing) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.wrote.Broadcast()
	w.err = err
}
