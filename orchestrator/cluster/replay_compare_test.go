package cluster

import (
	"testing"

	"github.com/musterdr/muster/testenv/apiserver"
)

// TestComparisonKnowsWhatAReplayChanged replays with a new name of a namespace, a transformation and
// every policy, and compares what stands there with what the replay says.
func TestComparisonKnowsWhatAReplayChanged(t *testing.T) {
	source := connect(t, shared.Need(t))
	newNamespace(t, source, "compared")
	for _, text := range []string{
		`{"metadata":{"name":"moved","labels":{"zone":"old"}},"data":{"a":"1"}}`,
		`{"metadata":{"name":"skipped"},"data":{"a":"1"}}`,
		`{"metadata":{"name":"updated","labels":{"updated":"yes"}},"data":{"a":"1"}}`,
		`{"metadata":{"name":"renamed"},"data":{"a":"1"}}`,
	} {
		create(t, source, "/api/v1/namespaces/compared/configmaps", object(t, text))
	}
	target := connect(t, apiserver.Need(t, apiserver.Config{}))
	newNamespace(t, target, "elsewhere")
	create(t, target, "/api/v1/namespaces/elsewhere/configmaps", object(t, `{"metadata":{"name":"skipped"},"data":{"a":"2"}}`))
	create(t, target, "/api/v1/namespaces/elsewhere/configmaps", object(t, `{"metadata":{"name":"updated"},"data":{"a":"2","b":"2"}}`))
	zone := "new"
	plan := func(c *ReplayConfig) {
		c.Policies = []Policy{
			{Kinds: []string{"configmaps"}, Selector: "updated", OnConflict: UpdateExisting},
			{Kinds: []string{"configmaps"}, OnConflict: SkipExisting},
		}
		c.Transform = []Transformation{
			{Namespace: map[string]string{"compared": "elsewhere"}},
			{Kinds: []string{"configmaps"}, CEL: `object.metadata.name == "renamed" ? {"metadata": {"name": "other"}} : {}`, Labels: map[string]*string{"zone": &zone}},
		}
	}
	captured, store := captureAll(t, source, func(c *CaptureConfig) {
		c.Include, c.ClusterResources = []string{"compared"}, NeededClusterResources
	})

	result, found := replayed(t, target, captured, store, plan)
	if result.Lost != 0 || result.Kept != 1 || result.Updated != 1 || result.Created != 2 {
		t.Fatalf("replayed %s\n%s", toJSON(t, result), toJSON(t, found.all))
	}
	var told ReplayConfig
	plan(&told)
	compare := func() Comparison {
		c, err := Compare(t.Context(), CompareConfig{
			Client: target, Recorded: store.recorded(t, captured), Mode: ModeReplay, Transform: told.Transform, Outcomes: result.Outcomes,
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := compare(); !c.Same() || c.Equal+c.Excused != 5 {
		t.Errorf("compared %s", toJSON(t, c))
	}
	for _, name := range []string{"moved", "updated", "other"} {
		path := "/api/v1/namespaces/elsewhere/configmaps/" + name
		patch(t, target, path, `{"data":{"a":"3"}}`)
		if c := compare(); c.Different != 1 {
			t.Errorf("%s was changed, and compared %s", name, toJSON(t, c))
		}
		patch(t, target, path, `{"data":{"a":"1"}}`)
	}
	drop(t, target, "/api/v1/namespaces/elsewhere/configmaps/other")
	if c := compare(); c.Missing != 1 {
		t.Errorf("one was deleted, and compared %s", toJSON(t, c))
	}
}
