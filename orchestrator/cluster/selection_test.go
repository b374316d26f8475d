package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

func TestSelectionIsChecked(t *testing.T) {
	for _, c := range []struct {
		selection Selection
		text      string
	}{
		{Selection{Kinds: []string{"["}}, "syntax error in pattern"},
		{Selection{Selector: "a in (b"}, "selector"},
		{Selection{FieldSelector: "metadata.name>1"}, "fieldSelector"},
		{Selection{Where: "object.metadata.name ="}, "where"},
		{Selection{Where: "objekt.metadata.name == ''"}, `unknown name "objekt"`},
		{Selection{Where: "object.metadata.name.size()"}, "want bool"},
		{Selection{ClusterResources: "some"}, "want all, needed or none"},
	} {
		if err := c.selection.Validate(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: error is %v, want %q", c.selection, err, c.text)
		}
	}
	if err := (Selection{}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestSelectionOfObjects(t *testing.T) {
	web := object(t, `{"kind":"Deployment","metadata":{"name":"web","namespace":"a","labels":{"app":"web"}},"spec":{"replicas":3,"type":"x","paused":true}}`)
	space := object(t, `{"kind":"Namespace","metadata":{"name":"a"}}`)
	node := object(t, `{"kind":"Node","metadata":{"name":"n"}}`)
	for _, c := range []struct {
		selection        Selection
		web, space, node bool // whether they are meant
	}{
		{Selection{}, true, true, true},
		{Selection{Kinds: []string{"deployments.apps"}}, true, true, false},
		{Selection{Kinds: []string{"deployments.apps"}, ClusterResources: NeededClusterResources}, true, true, true},
		{Selection{Kinds: []string{"pods"}, ClusterResources: NeededClusterResources}, false, true, true},
		{Selection{ExcludeKinds: []string{"nodes"}, ClusterResources: NeededClusterResources}, true, true, false},
		{Selection{ClusterResources: NoClusterResources}, true, false, false},
		{Selection{Exclude: []string{"a"}}, false, false, true},
		{Selection{Selector: "app=web"}, true, true, false},
		{Selection{Selector: "app!=web"}, false, true, true},
		{Selection{Selector: "app=web", ClusterResources: NeededClusterResources}, true, true, true},
		{Selection{FieldSelector: "metadata.name=web,metadata.namespace==a,spec.replicas!=2,spec.paused=true"}, true, true, false},
		{Selection{FieldSelector: "spec.type!=x"}, false, true, true},
		{Selection{Where: `object.metadata.name.startsWith("w") && object.kind == "Deployment"`}, true, true, false},
		{Selection{Where: "object.spec.replicas > 2"}, true, true, false}, // the node has no replicas
		{Selection{Where: "object.spec.type > 2"}, false, true, false},    // and a text is not compared with a number
	} {
		f, err := c.selection.filter()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []struct {
			key    Key
			object Object
			want   bool
		}{
			{Key{Group: "apps", Resource: "deployments", Namespace: "a", Name: "web"}, web, c.web},
			{Key{Resource: "namespaces", Name: "a"}, space, c.space}, {Key{Resource: "nodes", Name: "n"}, node, c.node},
		} {
			if skipped, err := f.skips(t.Context(), o.key, o.object); skipped == o.want || err != nil {
				t.Errorf("%+v: %s is meant: %v (%v), want %v", c.selection, o.key, !skipped, err, o.want)
			}
		}
	}
}

// TestSelectionFailsWhereAnExpressionCosts: what is too much for an expression is no object that
// does not fulfil it.
func TestSelectionFailsWhereAnExpressionCosts(t *testing.T) {
	f, err := Selection{Where: "object.list.all(a, object.list.all(b, object.list.all(c, a + b + c >= 0)))"}.filter()
	if err != nil {
		t.Fatal(err)
	}
	o := object(t, `{"list":[`+strings.Repeat("1,", 999)+`1]}`)
	if _, err := f.skips(t.Context(), Key{Resource: "nodes", Name: "n"}, o); !fault.Is(err, fault.Invalid) {
		t.Errorf("the error is %v", err)
	}
}

// TestFilterOfManifests: what a manifest says was left out is no difference, whichever version wrote it.
func TestFilterOfManifests(t *testing.T) {
	left := func(pairs ...string) (list []repository.LeftOut) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, repository.LeftOut{Subject: pairs[i], Reason: pairs[i+1]})
		}
		return list
	}
	secretA, secretB := Key{Resource: "secrets", Namespace: "a", Name: "s"}, Key{Resource: "secrets", Namespace: "b", Name: "s"}
	for name, c := range map[string]struct {
		layer repository.NamespacesLayer
		a, b  bool // whether the captures could have held them
	}{
		"all":                {repository.NamespacesLayer{}, true, true},
		"an older selection": {repository.NamespacesLayer{Left: left("namespaces other than a, c", "the plan includes these alone")}, true, false},
		"an older exclusion": {repository.NamespacesLayer{Left: left("namespace a*", "the plan excludes this namespace")}, false, true},
		"an older kind":      {repository.NamespacesLayer{Left: left("secrets.core", "the plan excludes this kind")}, false, false},
		"a foreign kind":     {repository.NamespacesLayer{Left: left("secrets.core", foreignKind)}, true, true},
		"a denied namespace": {repository.NamespacesLayer{Left: left("secrets.core in namespace b", "denied")}, true, false},
		"a selection":        {repository.NamespacesLayer{Selection: &repository.Selection{FieldSelector: "metadata.namespace=b"}}, false, true},
	} {
		f, err := filterOf(c.layer)
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[Key]bool{secretA: c.a, secretB: c.b} {
			o := object(t, fmt.Sprintf(`{"metadata":{"name":%q,"namespace":%q}}`, key.Name, key.Namespace))
			if skipped, err := f.skips(t.Context(), key, o); skipped == want || err != nil {
				t.Errorf("%s: %s could be there: %v (%v)", name, key, !skipped, err)
			}
		}
	}
}

// newTwoTenants makes two namespaces with accounts, bindings of the cluster, classes and a volume.
func newTwoTenants(t *testing.T, client *Client, prefix string) {
	t.Helper()
	group := prefix + ".example.org"
	path := newWidgets(t, client, group)
	for _, tenant := range []string{"a", "b"} {
		name := prefix + "-" + tenant
		newNamespace(t, client, name)
		core, rbac := "/api/v1/namespaces/"+name, "/apis/rbac.authorization.k8s.io/v1"
		create(t, client, core+"/serviceaccounts", secret("runner", nil))
		create(t, client, rbac+"/clusterroles", object(t, fmt.Sprintf(`{"metadata":{"name":%q},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`, name)))
		create(t, client, rbac+"/clusterrolebindings", object(t, fmt.Sprintf(`{"metadata":{"name":%q},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":%q},
			"subjects":[{"kind":"ServiceAccount","name":"runner","namespace":%q},{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"system:serviceaccounts:shared"}]}`, name, name, name)))
		create(t, client, "/apis/storage.k8s.io/v1/storageclasses", object(t, fmt.Sprintf(`{"metadata":{"name":%q},"provisioner":"csi.example.org"}`, name)))
		create(t, client, "/apis/scheduling.k8s.io/v1/priorityclasses", object(t, fmt.Sprintf(`{"metadata":{"name":%q},"value":7}`, name)))
		create(t, client, "/api/v1/persistentvolumes", object(t, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],
			"storageClassName":%q,"hostPath":{"path":"/x"},"claimRef":{"namespace":%q,"name":"data"}}}`, name, name, name)))
		create(t, client, core+"/persistentvolumeclaims", object(t, fmt.Sprintf(`{"metadata":{"name":"data"},"spec":{"accessModes":["ReadWriteOnce"],
			"storageClassName":%q,"volumeName":%q,"resources":{"requests":{"storage":"1Gi"}}}}`, name, name)))
		create(t, client, "/apis/apps/v1/namespaces/"+name+"/deployments", object(t, fmt.Sprintf(`{"metadata":{"name":"web","labels":{"app":"web"}},"spec":{"selector":{"matchLabels":{"a":"b"}},
			"template":{"metadata":{"labels":{"a":"b"}},"spec":{"priorityClassName":%q,"containers":[{"name":"c","image":"i"}]}}}}`, name)))
		create(t, client, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", object(t, fmt.Sprintf(`{"metadata":{"name":%q},"webhooks":[{"name":"w.example.org",
			"clientConfig":{"service":{"namespace":%q,"name":"hook"}},"sideEffects":"None","admissionReviewVersions":["v1"],"failurePolicy":"Ignore","rules":[]}]}`, name, name)))
	}
	create(t, client, fmt.Sprintf(path, prefix+"-a"), object(t, fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Widget","metadata":{"name":"w"}}`, group)))
}

// clusterKeys lists the captured objects of no namespace that a prefix is part of.
func clusterKeys(index map[string]Entry, prefix string) []string {
	return slices.DeleteFunc(keysOf(index), func(key string) bool { return !strings.Contains(key, prefix) || index[key].Namespace != "" })
}

func TestCaptureOfWhatIsNeeded(t *testing.T) {
	client := connect(t, shared.Need(t))
	newTwoTenants(t, client, "needy")
	captured, store := captureAll(t, client, func(c *CaptureConfig) {
		c.Include, c.ClusterResources = []string{"needy-a"}, NeededClusterResources
	})
	index := store.index(t, captured)
	want := []string{
		"admissionregistration.k8s.io/validatingwebhookconfigurations//needy-a",
		"apiextensions.k8s.io/customresourcedefinitions//widgets.needy.example.org",
		"core/namespaces//needy-a", "core/persistentvolumes//needy-a",
		"rbac.authorization.k8s.io/clusterrolebindings//needy-a", "rbac.authorization.k8s.io/clusterroles//needy-a",
		"scheduling.k8s.io/priorityclasses//needy-a", "storage.k8s.io/storageclasses//needy-a",
	}
	if got := clusterKeys(index, ""); !slices.Equal(got, want) {
		t.Errorf("of the cluster it took\n%v, want\n%v", got, want)
	}
	for key := range store.objects {
		if strings.Contains(string(store.objects[key]), "needy-b") {
			t.Errorf("the neighbour stands in\n%s", store.objects[key])
		}
	}
	if _, found := index["core/serviceaccounts/needy-a/runner"]; !found {
		t.Error("the account is missing")
	}
	found, err := Compare(t.Context(), CompareConfig{Client: client, Recorded: store.recorded(t, captured), Mode: ModeRebuild})
	if err != nil || !found.Same() || found.Expected != len(index) {
		t.Errorf("the same cluster differs: %+v, %v", found, err)
	}
	// What is not selected is needed by nobody: the claim's volume and its class stay away.
	captured, store = captureAll(t, client, func(c *CaptureConfig) {
		c.Include, c.Selector, c.ClusterResources = []string{"needy-*"}, "app=web", NeededClusterResources
	})
	index = store.index(t, captured)
	for key, want := range map[string]bool{
		"apps/deployments/needy-a/web": true, "apps/deployments/needy-b/web": true, "core/serviceaccounts/needy-a/runner": false,
		"core/namespaces//needy-b": true, "scheduling.k8s.io/priorityclasses//needy-b": true, "storage.k8s.io/storageclasses//needy-a": false,
		"rbac.authorization.k8s.io/clusterroles//needy-a": true, "core/persistentvolumes//needy-a": false,
	} {
		if _, found := index[key]; found != want {
			t.Errorf("%s: captured is %v, want %v", key, found, want)
		}
	}
}

func TestCaptureSelections(t *testing.T) {
	client := connect(t, shared.Need(t))
	newNamespace(t, client, "chosen")
	path := newWidgets(t, client, "chosen.example.org")
	for _, name := range []string{"one", "two"} {
		labelled := Object{"metadata": map[string]any{"name": name, "labels": map[string]any{"tier": name}}, "data": map[string]any{"n": name}}
		create(t, client, "/api/v1/namespaces/chosen/configmaps", labelled)
		create(t, client, fmt.Sprintf(path, "chosen"), object(t, fmt.Sprintf(
			`{"apiVersion":"chosen.example.org/v1","kind":"Widget","metadata":{"name":%q,"labels":{"tier":%q}},"spec":{"n":%q}}`, name, name, name)))
	}
	for _, selection := range []Selection{
		{Selector: "tier in (one)"}, {FieldSelector: "metadata.name=one,metadata.namespace=chosen"}, {Where: `object.metadata.name == "one"`},
	} {
		selection.Include, selection.Kinds = []string{"chosen"}, []string{"configmaps", "widgets.*"}
		captured, store := captureAll(t, client, func(c *CaptureConfig) { c.Selection = selection })
		want := []string{"chosen.example.org/widgets/chosen/one", "core/configmaps/chosen/one", "core/namespaces//chosen"}
		if got := keysOf(store.index(t, captured)); !slices.Equal(got, want) {
			t.Errorf("%+v took %v, want %v", selection, got, want)
		}
		if got := Selection(*captured.Layer.Selection); toJSON(t, got) != toJSON(t, selection) {
			t.Errorf("the manifest says %+v, want %+v", got, selection)
		}
		recorded := store.recorded(t, captured)
		found, err := Compare(t.Context(), CompareConfig{Client: client, Recorded: recorded, Mode: ModeRebuild})
		if err != nil || !found.Same() || found.Expected != 3 {
			t.Errorf("%+v: the same cluster differs: %+v, %v", selection, found, err)
		}
		selection.Where = `object.kind == "Widget"`
		if chosen, err := recorded.Select(t.Context(), selection); err != nil || len(chosen) != 2 || chosen[1].Kind != "Widget" {
			t.Errorf("of the point %+v selects %v, %v", selection, chosen, err)
		}
	}
	captured, _ := captureAll(t, client, func(c *CaptureConfig) {
		c.Selection = Selection{Kinds: []string{"configmaps"}, ExcludeKinds: []string{"nodes"}, Selector: "a=b", Where: "true", ClusterResources: NoClusterResources}
	})
	var left []string
	for _, l := range captured.Layer.Left {
		if strings.HasPrefix(l.Reason, "the plan") {
			left = append(left, l.Subject)
		}
	}
	want := []string{"kinds other than configmaps", "nodes.core", "objects of no namespace", "objects that do not fulfil selector a=b", "objects that do not fulfil where true"}
	if !slices.Equal(left, want) {
		t.Errorf("left out is %q, want %q", left, want)
	}
}

func TestRecordedSelectsWhatIsNeeded(t *testing.T) {
	client := connect(t, shared.Need(t))
	newTwoTenants(t, client, "later")
	captured, store := captureAll(t, client, nil)
	chosen, err := store.recorded(t, captured).Select(t.Context(), Selection{
		Include: []string{"later-b"}, Kinds: []string{"deployments.apps"}, ClusterResources: NeededClusterResources,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range chosen {
		got = append(got, entry.Key().String())
	}
	want := []string{
		"admissionregistration.k8s.io/validatingwebhookconfigurations//later-b", "apps/deployments/later-b/web", "core/namespaces//later-b",
		"rbac.authorization.k8s.io/clusterrolebindings//later-b", "rbac.authorization.k8s.io/clusterroles//later-b",
		"scheduling.k8s.io/priorityclasses//later-b",
	}
	if !slices.Equal(sorted(got), want) {
		t.Errorf("it selects\n%v, want\n%v", sorted(got), want)
	}
}
