package cluster

import (
	"slices"
	"testing"
)

// graphed reads the graph of a namespace whose objects need each other in a chain and in a circle.
func graphed(t *testing.T) *Graph {
	t.Helper()
	source := connect(t, shared.Need(t))
	if _, err := living(t, source, "/api/v1/namespaces/graphed"); err != nil {
		newNamespace(t, source, "graphed")
		create(t, source, "/api/v1/namespaces/graphed/configmaps", object(t, `{"metadata":{"name":"settings"}}`))
		create(t, source, "/api/v1/namespaces/graphed/serviceaccounts", object(t, `{"metadata":{"name":"app"},"secrets":[{"name":"zkey"}]}`))
		create(t, source, "/api/v1/namespaces/graphed/secrets", object(t, `{"metadata":{"name":"zkey","ownerReferences":[{"apiVersion":"v1","kind":"ServiceAccount","name":"app","uid":"u"}]}}`))
		create(t, source, "/apis/apps/v1/namespaces/graphed/deployments", object(t, `{"metadata":{"name":"web"},"spec":{"selector":{"matchLabels":{"a":"b"}},
			"template":{"metadata":{"labels":{"a":"b"}},"spec":{"serviceAccountName":"app","containers":[{"name":"c","image":"i","envFrom":[{"configMapRef":{"name":"settings"}},{"secretRef":{"name":"gone"}}]}]}}}}`))
	}
	captured, store := captureAll(t, source, func(c *CaptureConfig) {
		c.Include, c.ClusterResources = []string{"graphed"}, NeededClusterResources
	})
	graph, err := store.recorded(t, captured).Graph(t.Context(), Selection{})
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

func TestGraphTellsWhyAnObjectWaits(t *testing.T) {
	graph := graphed(t)
	found := graph.Find("deployment", "graphed", "web")
	if len(found) != 1 || len(graph.Find("deployments.apps", "", "web")) != 1 || len(graph.Find("Secret", "", "web")) != 0 {
		t.Fatalf("found %s", toJSON(t, found))
	}
	web := found[0]
	settings := Key{Resource: "configmaps", Namespace: "graphed", Name: "settings"}
	known := func(r Reference) bool { return slices.Contains(web.Needs[:web.Known], r) }
	if i := slices.IndexFunc(web.Needs, func(r Reference) bool { return r.Key == settings }); i < 0 || !known(web.Needs[i]) || web.Needs[i].Hard {
		t.Errorf("the Deployment needs %s", toJSON(t, web.Needs))
	}
	gone := Key{Resource: "secrets", Namespace: "graphed", Name: "gone"}
	if i := slices.IndexFunc(web.Needs, func(r Reference) bool { return r.Key == gone }); i < web.Known {
		t.Errorf("a Secret that the point does not hold is %d of %s", i, toJSON(t, web.Needs))
	}
	waiting := graph.Waiting(settings)
	if len(waiting) != 1 || waiting[0].Key != web.Key {
		t.Errorf("the ConfigMap is needed by %s", toJSON(t, waiting))
	}
	if root := graph.Find("configmaps", "graphed", "kube-root-ca.crt"); len(root) == 1 && root[0].Left == "" {
		t.Error("the authority's ConfigMap would be replayed")
	}
}

// TestGraphIsCutAtItsSoftestNeed: an account and its Secret name each other; the Secret has the account
// as its owner, which weighs more.
func TestGraphIsCutAtItsSoftestNeed(t *testing.T) {
	graph := graphed(t)
	needs := graph.Acyclic()
	account := Key{Resource: "serviceaccounts", Namespace: "graphed", Name: "app"}
	key := Key{Resource: "secrets", Namespace: "graphed", Name: "zkey"}
	if !slices.Contains(needs[key], account) || slices.Contains(needs[account], key) {
		t.Errorf("the Secret needs %v, the account %v", needs[key], needs[account])
	}
	kinds, counts := graph.ByKind()
	if counts[Key{Resource: "configmaps"}] == 0 || len(kinds.Find("deployments.apps", "", "")) != 1 {
		t.Errorf("kinds %v of %s", counts, toJSON(t, kinds.Objects))
	}
	if web := kinds.Find("deployments.apps", "", "")[0]; !slices.ContainsFunc(web.Needs, func(r Reference) bool { return r.Key == (Key{Resource: "serviceaccounts"}) }) {
		t.Errorf("Deployments need %s", toJSON(t, web.Needs))
	}
}
