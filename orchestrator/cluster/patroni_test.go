package cluster

import (
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestForgetPatroni(t *testing.T) {
	client := connect(t, shared.Need(t))
	core := client.typed.CoreV1()
	const namespace = "forget-patroni"
	if _, err := core.Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	about := func(name, cluster string, annotations map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Labels: map[string]string{"application": "patroni", "cluster-name": cluster}, Annotations: annotations}
	}
	leader := map[string]string{"leader": "a-0", "optime": "5000", "example.org/note": "kept"}
	state := map[string]string{"config": "{}", "initialize": "7", "history": "[]"}
	for _, meta := range []metav1.ObjectMeta{about("a", "a", leader), about("a-config", "a", state), about("b-config", "b", state)} {
		if _, err := core.Endpoints(namespace).Create(t.Context(), &corev1.Endpoints{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil { //nolint:staticcheck // what Patroni writes
			t.Fatal(err)
		}
		if _, err := core.ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it can be repeated
		if err := client.forgetPatroni(t.Context(), PodQuery{Namespace: namespace, Patroni: "application=patroni,cluster-name=a"}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]string{"a": {"example.org/note"}, "a-config": {"config"}, "b-config": {"config", "history", "initialize"}} {
		e, err := core.Endpoints(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := core.ConfigMaps(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, left := range []map[string]string{e.Annotations, m.Annotations} {
			if got := slices.Sorted(maps.Keys(left)); !slices.Equal(got, want) {
				t.Errorf("%s has %v, want %v", name, got, want)
			}
		}
	}
}
