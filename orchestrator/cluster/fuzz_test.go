package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// kindsWithRules are those whose objects are looked into, beside what is looked for in all.
func kindsWithRules() []Resource {
	var kinds []Resource
	add := func(group, version, name, kind string, namespaced bool) {
		kinds = append(kinds, Resource{Group: group, Version: version, Name: name, Kind: kind, Namespaced: namespaced})
	}
	add("", "v1", "services", "Service", true)
	add("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true)
	add("", "v1", "persistentvolumes", "PersistentVolume", false)
	add("", "v1", "namespaces", "Namespace", false)
	add("", "v1", "pods", "Pod", true)
	add("", "v1", "secrets", "Secret", true)
	add("", "v1", "serviceaccounts", "ServiceAccount", true)
	add("apps", "v1", "replicasets", "ReplicaSet", true)
	add("batch", "v1", "jobs", "Job", true)
	add("operators.coreos.com", "v1alpha1", "subscriptions", "Subscription", true)
	add("build.openshift.io", "v1", "buildconfigs", "BuildConfig", true)
	add("route.openshift.io", "v1", "routes", "Route", true)
	add("image.openshift.io", "v1", "imagestreams", "ImageStream", true)
	add("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false)
	add("example.org", "v1", "widgets", "Widget", true)
	return kinds
}

// everyTransformation changes all that can be changed.
func everyTransformation() []Transformation {
	value := "x"
	pairs := map[string]string{"a": "b", "old": "new"}
	marks := map[string]*string{"set": &value, "gone": nil}
	return []Transformation{
		{Namespace: pairs},
		{StorageClass: pairs, Host: pairs, Image: pairs, Region: pairs, Zone: pairs, Node: pairs, Labels: marks, Annotations: marks},
		{CEL: `has(object.spec) ? {"metadata": {"labels": {"cel": "1"}}} : {}`},
		{Merge: map[string]any{"metadata": map[string]any{"labels": map[string]any{"merged": "1"}}}},
		{JSONPatch: []map[string]any{{"op": "remove", "path": "/metadata/labels"}}},
	}
}

// FuzzObjectFile takes a file through all that a replay, a comparison and a selection make of an object,
// as an object of each kind that is looked into. Whatever it holds, nothing may panic.
func FuzzObjectFile(f *testing.F) {
	for _, o := range hostileObjects() {
		if len(o.text) < 1<<12 {
			f.Add([]byte(o.text))
		}
	}
	f.Add([]byte(`{"metadata":{"ownerReferences":["x",{"kind":"ConfigMap","name":"o","uid":"u"}],"annotations":{"muster.dev/before-replay":"[]"}},"spec":{"volumeName":"v","ports":[{"nodePort":1},2],"claimRef":{"uid":"u"},"output":{"pushSecret":{"name":"builder-dockercfg-abcde"}},"strategy":{"s":7}},"status":{"installedCSV":"v1"},"secrets":[7,{"name":"default-token-abcde"}]}`))
	f.Add([]byte("metadata: {name: a, labels: 7, annotations: [1]}\nspec: {template: {spec: {containers: [{image: a/b}]}}}\n"))
	var stages []*stage
	for _, kind := range kindsWithRules() {
		stages = append(stages, newStage(f, kind))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := parseFile("fuzz", text)
		if err != nil {
			return
		}
		for _, s := range stages {
			s.take(t, clone(parsed).(Object))
		}
	})
}

// stage is a replay of one object, called o, and of two that it may name: these are there.
type stage struct {
	*replay
	kind Resource
	task *task
}

func newStage(f *testing.F, kind Resource) *stage {
	entry := Entry{Group: kind.Group, Version: kind.Version, Resource: kind.Name, Kind: kind.Kind, Name: "o", UID: "u"}
	if kind.Namespaced {
		entry.Namespace = "a"
	}
	owner := Entry{Version: "v1", Resource: "configmaps", Kind: "ConfigMap", Namespace: "a", Name: "o", UID: "u"}
	volume := Entry{Version: "v1", Resource: "persistentvolumes", Kind: "PersistentVolume", Name: "v", UID: "v"}
	r, err := newReplay(ReplayConfig{
		Recorded: Recorded{Entries: []Entry{entry, owner, volume}}, Transform: everyTransformation(), LeaveTo: []string{ArgoCD, Flux}, Report: func(Note) {},
	})
	if err != nil {
		f.Fatal(err)
	}
	tasks := []*task{{Entry: &entry}, {Entry: &owner}, {Entry: &volume}}
	r.queue = newQueue(context.Background(), tasks, 1, 1, time.Hour)
	f.Cleanup(r.queue.close)
	for _, there := range tasks[1:] {
		there.state, there.uid, there.outcome = taskSettled, "there", Outcome{Result: Created}
	}
	return &stage{r, kind, tasks[0]}
}

// take gives an object the place that its index would say, and brings it as far as the wire.
func (s *stage) take(t *testing.T, o Object) {
	_ = s.task.names(o) // whatever it says, all below must bear the object
	metadata, _ := o["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	o["apiVersion"], o["kind"], o["metadata"] = s.kind.apiVersion(), s.kind.Kind, metadata
	delete(metadata, "namespace")
	metadata["name"] = s.task.Name
	if s.kind.Namespaced {
		metadata["namespace"] = s.task.Namespace
	}
	key := s.task.Key()
	captured := unheld(o)
	s.excused(key, captured)
	s.leftTo(key, captured)
	s.policyOf(key, captured)
	s.lacks(references(key, captured, s.resolve))
	s.digest(key, o)
	askAll(t, s.Recorded, key, o)
	wanted, err := s.prepare(t.Context(), key, captured)
	if err != nil {
		return
	}
	w := &want{task: s.task, key: targetKey(key, wanted), object: wanted}
	if err := s.adopt(t.Context(), w, captured.owners()); err != nil {
		t.Fatal(err) // nobody is asked: all owners that are known are there
	}
	for _, refused := range []string{"spec.clusterIP: taken", "spec.ports[1].nodePort: taken", "healthCheckNodePort"} {
		s.giveUp(w, errors.New(refused))
	}
	withoutAddresses(w.key, w.object, o)
	s.differing(w, o)
	diff("a", "b", veiled(captured), veiled(w.object))
	if path := objectPath(w.resource(), w.key); !ownPathOf(s.kind).matches(path) {
		t.Errorf("it would be sent to %s", path)
	}
}

// askAll asks of an object all that selections ask.
func askAll(t *testing.T, r Recorded, key Key, o Object) {
	selection := Selection{Selector: "a=b", FieldSelector: "spec.nodeName=a", Where: `object.spec.replicas > 1`, ClusterResources: NeededClusterResources}
	f, err := selection.filter()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.skips(t.Context(), key, o) // an expression may fail on it
	n := newNeeds(resolverOf(r.resources()))
	n.selected(key, o)
	n.offered(key, o)
	n.needed()
	controllerOf(key, o)
	internalIP(o)
	Digest(stored(o))
}

// ownPathOf is where objects of a kind live.
type ownPathOf Resource

func (k ownPathOf) matches(path string) bool {
	prefix := Resource(k).path("")
	if k.Namespaced {
		prefix = strings.TrimSuffix(prefix, "/"+k.Name) + "/namespaces/"
	}
	rest, found := strings.CutPrefix(path, prefix)
	return found && !strings.Contains(rest, "..") && !strings.Contains(rest, "?") && strings.Count(rest, "/") <= 2
}
