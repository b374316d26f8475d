package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/testenv/apiserver"
)

const (
	killings = 10
	chains   = 220 // of a custom resource and three levels of what it owns
	singles  = 600
	services = 50
)

const killedPlans = `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: save}
spec:
  purpose: capture
  steps:
    - {id: apps, uses: capture-namespaces, with: {include: [origin], clusterResources: needed}}
    - {id: seal, uses: seal-recovery-point, needs: [apps]}
`

// killedPlan replays the namespace under another name.
const killedPlan = `---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: %[1]s}
spec:
  purpose: migrate
  steps:
    - {id: apps, uses: replay-namespaces, with: {include: [origin], transform: [{namespace: {origin: %[1]s}}], pause: [ops/deployments.apps/operator], wait: 1m}}
`

func kindOf(group, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}
}

// killedKinds are those of which nothing is made by controllers alone.
func killedKinds() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		kindOf("", "configmaps"), kindOf("", "secrets"), kindOf("", "services"), kindOf("", "serviceaccounts"), kindOf("", "resourcequotas"),
		kindOf("apps", "deployments"), kindOf("killed.example.org", "widgets"),
	}
}

// killedReplay is a cluster with a namespace, a recovery point of it, and the means to look at what
// replays make of it.
type killedReplay struct {
	t    *testing.T
	desk *desk
	api  dynamic.Interface
	etcd *clientv3.Client
}

// TestReplayKilled kills a replay at ten random moments, and lets it be resumed: the objects are those that
// a replay has brought back which nobody disturbed, and nothing is left held.
func TestReplayKilled(t *testing.T) {
	k := newKilledReplay(t)
	k.seed()
	k.prepare("calm")
	if _, said, err := k.desk.muster(t.Context(), "run", "save"); err != nil {
		t.Fatal(err, said)
	}
	writes := k.replay("calm", 0)
	want, objects := k.digest("calm")
	if lost := k.lost("calm"); lost != 1 || objects < chains*4+singles+services {
		t.Fatalf("undisturbed, %d objects were lost, want one: of %d", lost, objects)
	}
	random := rand.New(rand.NewPCG(1, uint64(writes)))
	for i := range killings {
		name, after := fmt.Sprintf("killed-%d", i), 1+random.IntN(writes*9/10)
		k.prepare(name)
		k.replay(name, after)
		if _, said, err := k.desk.muster(t.Context(), "runs", "resume", k.openRun()); exitCode(err) != exitIncomplete {
			t.Fatalf("resumed after write %d: %v\n%s", after, err, said)
		}
		if got, n := k.digest(name); got != want {
			t.Errorf("killed at write %d of %d, there are %d objects, %s: want %d, %s", after, writes, n, got, objects, want)
		}
		if lost := k.lost(name); lost != 1 {
			t.Errorf("killed at write %d, %d objects are lost", after, lost)
		}
		k.nothingHeld()
	}
	t.Logf("%d objects, %d writes", objects, writes)
}

func newKilledReplay(t *testing.T) *killedReplay {
	t.Helper()
	server := apiserver.Need(t, apiserver.Config{Controllers: true})
	text := killedPlans
	for _, name := range append([]string{"calm"}, killedNames()...) {
		text += fmt.Sprintf(killedPlan, name)
	}
	k := &killedReplay{t: t, desk: clusterDesk(t, server.Kubeconfig, text)}
	config, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	k.must(err)
	config.QPS = -1
	k.api, err = dynamic.NewForConfig(config)
	k.must(err)
	k.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{server.Etcd}})
	k.must(err)
	t.Cleanup(func() { _ = k.etcd.Close() })
	return k
}

func killedNames() []string {
	var names []string
	for i := range killings {
		names = append(names, fmt.Sprintf("killed-%d", i))
	}
	return names
}

func (k *killedReplay) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *killedReplay) make(resource schema.GroupVersionResource, namespace, text string) *unstructured.Unstructured {
	k.t.Helper()
	var o unstructured.Unstructured
	k.must(yaml.Unmarshal([]byte(text), &o.Object))
	made, err := k.api.Resource(resource).Namespace(namespace).Create(k.t.Context(), &o, metav1.CreateOptions{})
	k.must(err)
	return made
}

// seed makes the namespace whose objects are replayed: more of them than its quota takes by now.
func (k *killedReplay) seed() {
	k.make(kindOf("apiextensions.k8s.io", "customresourcedefinitions"), "", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.killed.example.org},
		spec: {group: killed.example.org, scope: Namespaced, names: {plural: widgets, kind: Widget}, versions: [{name: v1, served: true, storage: true,
		schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`)
	for _, name := range []string{"ops", "origin"} {
		k.make(kindOf("", "namespaces"), "", "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}")
	}
	const deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: %[1]s}, spec: {replicas: 2, selector: {matchLabels: {app: %[1]s}},
		template: {metadata: {labels: {app: %[1]s}}, spec: {containers: [{name: c, image: i}]}}}}`
	k.make(kindOf("apps", "deployments"), "ops", fmt.Sprintf(deployment, "operator"))
	k.make(kindOf("apps", "deployments"), "origin", fmt.Sprintf(deployment, "web"))
	k.make(kindOf("", "configmaps"), "origin", `{apiVersion: v1, kind: ConfigMap, metadata: {name: taken}, data: {a: captured}}`)
	k.await("the widgets are served", func() bool {
		_, err := k.api.Resource(kindOf("killed.example.org", "widgets")).List(k.t.Context(), metav1.ListOptions{Limit: 1})
		return err == nil
	})
	var group errgroup.Group
	group.SetLimit(16)
	for i := range max(chains, singles, services) {
		group.Go(func() error { k.seedSome(i); return nil })
	}
	k.must(group.Wait())
	k.make(kindOf("", "resourcequotas"), "origin", `{apiVersion: v1, kind: ResourceQuota, metadata: {name: tight}, spec: {hard: {configmaps: "7", secrets: "7", services: "7"}}}`)
}

func (k *killedReplay) seedSome(i int) {
	const owned = `{apiVersion: v1, kind: %s, metadata: {name: "%s-%d", ownerReferences: [{apiVersion: %s, kind: %s, name: %s, uid: %s, blockOwnerDeletion: true}]}}`
	if i < singles {
		k.make(kindOf("", "configmaps"), "origin", fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: single-%d}, data: {n: "%[1]d"}}`, i))
	}
	if i < services {
		k.make(kindOf("", "services"), "origin", fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: s-%d}, spec: {selector: {app: web}, ports: [{port: 80}]}}`, i))
	}
	if i >= chains {
		return
	}
	owner := k.make(kindOf("killed.example.org", "widgets"), "origin", fmt.Sprintf(`{apiVersion: killed.example.org/v1, kind: Widget, metadata: {name: root-%d}}`, i))
	for _, next := range [][3]string{{"configmaps", "ConfigMap", "first"}, {"secrets", "Secret", "second"}, {"configmaps", "ConfigMap", "third"}} {
		owner = k.make(kindOf("", next[0]), "origin",
			fmt.Sprintf(owned, next[1], next[2], i, owner.GetAPIVersion(), owner.GetKind(), owner.GetName(), owner.GetUID()))
	}
}

// prepare makes the namespace of one replay, with an object in it that is to stay.
func (k *killedReplay) prepare(name string) {
	k.t.Helper()
	k.make(kindOf("", "namespaces"), "", "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}")
	k.make(kindOf("", "configmaps"), name, `{apiVersion: v1, kind: ConfigMap, metadata: {name: taken}, data: {a: stays}}`)
}

// replay starts a replay as a process of its own, and kills it once so many of its writes have reached etcd: to the
// namespace, and to the operator. With 0 it lets it end. It returns how many writes there were.
func (k *killedReplay) replay(name string, after int) (writes int) {
	k.t.Helper()
	watching, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	changes := k.etcd.Watch(clientv3.WithRequireLeader(watching), "/registry/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-changes // the watch stands
	var said strings.Builder
	command := exec.Command("muster", "run", name, "--state-dir", k.desk.path("state"), "-f", k.desk.path("muster.yaml"))
	command.Stderr = &said
	k.must(command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for {
		select {
		case err := <-ended:
			if after > 0 || exitCodeOf(err) != exitIncomplete {
				k.t.Fatalf("%s ended after %d writes, and was to be killed after %d: %v\n%s", name, writes, after, err, said.String())
			}
			return writes
		case change := <-changes:
			for _, event := range change.Events {
				if key := string(event.Kv.Key); strings.Contains(key, "/"+name+"/") || strings.HasSuffix(key, "/ops/operator") {
					writes++
				}
			}
		}
		if after > 0 && writes >= after {
			k.must(command.Process.Kill())
			<-ended
			return writes
		}
	}
}

func exitCodeOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return exitOK
}

type listedRun struct{ Run, Plan, State string }

func (k *killedReplay) runs() (runs []listedRun) {
	k.t.Helper()
	listed, said, err := k.desk.muster(k.t.Context(), "runs", "list", "-o", "json")
	if err != nil {
		k.t.Fatal(err, said)
	}
	k.must(json.Unmarshal([]byte(listed), &runs))
	return runs
}

// openRun is the run that was killed.
func (k *killedReplay) openRun() string {
	k.t.Helper()
	runs := k.runs()
	i := slices.IndexFunc(runs, func(r listedRun) bool { return r.State != "completed" })
	if i < 0 {
		k.t.Fatalf("no run is open: %v", runs)
	}
	return runs[i].Run
}

// lost is how many objects the report of a plan's run calls lost.
func (k *killedReplay) lost(plan string) int64 {
	k.t.Helper()
	i := slices.IndexFunc(k.runs(), func(r listedRun) bool { return r.Plan == plan })
	shown, said, err := k.desk.muster(k.t.Context(), "runs", "show", k.runs()[i].Run, "-o", "json")
	if err != nil {
		k.t.Fatal(err, said)
	}
	var report struct {
		Layers []struct{ Expected, Done int64 }
	}
	k.must(json.Unmarshal([]byte(shown), &report))
	return report.Layers[0].Expected - report.Layers[0].Done
}

// digest is over all objects of a namespace but what each has of its own: UIDs, times, addresses. That owners
// are those of this namespace is looked at here.
func (k *killedReplay) digest(namespace string) (string, int) {
	k.t.Helper()
	uids, all := map[string]types.UID{}, []unstructured.Unstructured{}
	for _, kind := range killedKinds() {
		list, err := k.api.Resource(kind).Namespace(namespace).List(k.t.Context(), metav1.ListOptions{})
		k.must(err)
		for _, o := range list.Items {
			uids[o.GetKind()+"/"+o.GetName()] = o.GetUID()
			all = append(all, o)
		}
	}
	var lines []string
	for _, o := range all {
		for _, owner := range o.GetOwnerReferences() {
			if uid := uids[owner.Kind+"/"+owner.Name]; uid != owner.UID {
				k.t.Errorf("%s %s of %s is owned by %s, and its owner is %s", o.GetKind(), o.GetName(), namespace, owner.UID, uid)
			}
		}
		lines = append(lines, plainText(k.t, o, namespace))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:]), len(all)
}

func plainText(t *testing.T, o unstructured.Unstructured, namespace string) string {
	t.Helper()
	for _, path := range [][]string{
		{"metadata", "uid"}, {"metadata", "resourceVersion"}, {"metadata", "creationTimestamp"}, {"metadata", "managedFields"}, {"metadata", "generation"},
		{"spec", "clusterIP"}, {"spec", "clusterIPs"}, {"status"},
	} {
		unstructured.RemoveNestedField(o.Object, path...)
	}
	owners := o.GetOwnerReferences()
	for i := range owners {
		owners[i].UID = ""
	}
	o.SetOwnerReferences(owners)
	text, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), `"namespace":"`+namespace+`"`, `"namespace":""`)
}

// nothingHeld looks for what a replay has changed for its own time.
func (k *killedReplay) nothingHeld() {
	k.t.Helper()
	for _, kind := range []schema.GroupVersionResource{kindOf("", "resourcequotas"), kindOf("apps", "deployments")} {
		list, err := k.api.Resource(kind).List(k.t.Context(), metav1.ListOptions{})
		k.must(err)
		for _, o := range list.Items {
			if _, held := o.GetAnnotations()["muster.dev/before-replay"]; held {
				k.t.Errorf("%s %s/%s is left held", o.GetKind(), o.GetNamespace(), o.GetName())
			}
		}
	}
	operator, err := k.api.Resource(kindOf("apps", "deployments")).Namespace("ops").Get(k.t.Context(), "operator", metav1.GetOptions{})
	k.must(err)
	if replicas, _, _ := unstructured.NestedInt64(operator.Object, "spec", "replicas"); replicas != 2 {
		k.t.Errorf("the operator has %d replicas, want 2", replicas)
	}
}

func (k *killedReplay) await(what string, holds func() bool) {
	k.t.Helper()
	for range awaitTries {
		if holds() {
			return
		}
	}
	k.t.Fatalf("it does not come to it that %s", what)
}
