package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/testenv/apiserver"
)

const discoveredDocuments = `apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: prod}
spec:
  kubeconfigFile: $DIR/kubeconfig
  databases:
    - {name: shop/ledger, engine: postgresql, pod: {namespace: shop, selector: app=ledger}}
    - {name: shop/forgotten, engine: mariadb, pod: {namespace: shop, selector: app=forgotten}}
---
apiVersion: muster.dev/v1alpha1
kind: Repository
metadata: {name: vault}
spec: {url: "file://$DIR/repo", keyFile: $DIR/muster.key}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: nightly}
spec:
  purpose: capture
  steps:
    - {id: databases, uses: backup-databases, with: {databases: ["shop/led*"]}}
    - {id: seal, uses: seal-recovery-point, needs: [databases]}
`

// TestDatabaseDiscover asks a real API server: one database that a plan protects, one that none takes, one that the
// Cluster document does not list, one of an operator, and what is no database.
func TestDatabaseDiscover(t *testing.T) {
	server := apiserver.Need(t, apiserver.Config{})
	d := equipped(t, discoveredDocuments, server.Kubeconfig)
	seedDatabases(t, server)

	printed, said, err := d.muster(t.Context(), "database", "discover")
	if err != nil {
		t.Fatal(err, said)
	}
	for _, want := range []string{
		"shop/ledger: postgresql, StatefulSet", "  backed up by  nightly", "No plan protects, since the Cluster document does not list them: other/bank, shop/orders\n",
		"No plan protects, since no backup-databases step takes them: shop/forgotten\n", "it is one of clusters.postgresql.cnpg.io",
		"\n  databases:\n", "    name: shop/orders\n", "        name: orders-keys\n", "      selector: app=orders\n",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(printed, said)
	}
	if strings.Contains(printed, "hunter2") || strings.Contains(printed, "web") {
		t.Error(printed)
	}
	_, entries, _ := strings.Cut(printed, "\n  databases:\n")
	proposed := "apiVersion: muster.dev/v1alpha1\nkind: Cluster\nmetadata: {name: proposed}\nspec:\n  kubeconfigFile: k\n  databases:\n" + entries
	if set, err := plans.Read("proposed", strings.NewReader(proposed)); err != nil || len(set.Clusters["proposed"].Spec.Databases) != 2 {
		t.Errorf("what is proposed can't be read: %v\n%s", err, proposed)
	}

	printed, said, err = d.muster(t.Context(), "database", "discover", "--namespace", "oth*", "-o", "json")
	if err != nil {
		t.Fatal(err, said)
	}
	var all []discoveredDatabase
	if err := json.Unmarshal([]byte(printed), &all); err != nil || len(all) != 1 || all[0].Name != "bank" || len(all[0].Plans) != 0 {
		t.Errorf("%v %s", err, printed)
	}
	printed, _, err = d.muster(t.Context(), "database", "discover", "--namespace", "nowhere")
	if err != nil || !strings.HasPrefix(printed, "No database was recognised.") {
		t.Errorf("%v %s", err, printed)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err = d.muster(t.Context(), "database", "discover"); exitCode(err) != exitTransient {
		t.Errorf("a server that is away: %v", err)
	}
}

func seedDatabases(t *testing.T, server *apiserver.Server) {
	t.Helper()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	must(nil, err)
	api, err := kubernetes.NewForConfig(config)
	must(nil, err)
	for _, name := range []string{"shop", "other"} {
		must(api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	must(api.CoreV1().ServiceAccounts("other").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	must(api.CoreV1().Secrets("shop").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "orders-keys"}, StringData: map[string]string{"password": "hunter2-hunter2"}}, metav1.CreateOptions{}))
	for name, image := range map[string]string{"ledger": "postgres:16", "forgotten": "mariadb:11.4", "orders": "bitnami/mariadb:11", "web": "nginx:1"} {
		labels := map[string]string{"app": name}
		container := corev1.Container{Name: "main", Image: image}
		if name == "orders" {
			container.Env = []corev1.EnvVar{{Name: "MARIADB_ROOT_PASSWORD", ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "orders-keys"}, Key: "password"},
			}}}
		}
		must(api.AppsV1().StatefulSets("shop").Create(t.Context(), &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{container}},
			}},
		}, metav1.CreateOptions{}))
	}
	post := func(path, body string) error {
		return api.CoreV1().RESTClient().Post().AbsPath(path).Body([]byte(body)).SetHeader("Content-Type", "application/json").Do(t.Context()).Error()
	}
	must(nil, post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"clusters.postgresql.cnpg.io"},
		"spec":{"group":"postgresql.cnpg.io","scope":"Namespaced","names":{"plural":"clusters","singular":"cluster","kind":"Cluster","listKind":"ClusterList"},
		"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`))
	eventually(t, func() error {
		return post("/apis/postgresql.cnpg.io/v1/namespaces/other/clusters", `{"apiVersion":"postgresql.cnpg.io/v1","kind":"Cluster","metadata":{"name":"bank"}}`)
	})
	bank, err := api.CoreV1().RESTClient().Get().AbsPath("/apis/postgresql.cnpg.io/v1/namespaces/other/clusters/bank").DoRaw(t.Context())
	must(nil, err)
	var object metav1.PartialObjectMetadata
	must(nil, json.Unmarshal(bank, &object))
	yes, no := true, false
	must(api.CoreV1().Pods("other").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "bank-1", Labels: map[string]string{"cnpg.io/cluster": "bank"}, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "postgresql.cnpg.io/v1", Kind: "Cluster", Name: "bank", UID: object.UID, Controller: &yes},
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "postgres", Image: "ghcr.io/cloudnative-pg/postgresql:16"}}, AutomountServiceAccountToken: &no},
	}, metav1.CreateOptions{}))
}

// eventually repeats what a server takes only in a moment.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	err := fmt.Errorf("never tried")
	for range awaitTries {
		if err = try(); err == nil {
			return
		}
		pause(t)
	}
	t.Fatal(err)
}

func pause(t *testing.T) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(50 * time.Millisecond):
	}
}
