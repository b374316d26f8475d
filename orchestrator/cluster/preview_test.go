package cluster

import (
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv/apiserver"
)

// TestPreviewIsWhatAReplayDoes previews a replay that creates, replaces, prunes and leaves alone; the
// replay then does just that, and afterwards there is nothing to preview.
func TestPreviewIsWhatAReplayDoes(t *testing.T) {
	source := connect(t, shared.Need(t))
	newNamespace(t, source, "previewed")
	for _, name := range []string{"equal", "fresh", "changed"} {
		create(t, source, "/api/v1/namespaces/previewed/secrets", secret(name, map[string]any{"word": "planted-in-the-source"}))
	}
	captured, store := captureAll(t, source, func(c *CaptureConfig) {
		c.Include, c.ClusterResources = []string{"previewed"}, NeededClusterResources
	})
	target := connect(t, apiserver.Need(t, apiserver.Config{}))
	newNamespace(t, target, "previewed")
	create(t, target, "/api/v1/namespaces/previewed/secrets", secret("equal", map[string]any{"word": "planted-in-the-source"}))
	create(t, target, "/api/v1/namespaces/previewed/secrets", secret("changed", map[string]any{"word": "planted-in-the-target"}))
	create(t, target, "/api/v1/namespaces/previewed/secrets", secret("surplus", nil))
	moved := "yes"
	plan := func(c *ReplayConfig) {
		c.Policies = []Policy{{Kinds: []string{"secrets"}, OnConflict: ReplaceExisting, Prune: true}}
		c.Transform = []Transformation{{CEL: `object.metadata.name == "fresh" ? {"metadata": {"labels": {"moved": "yes"}}} : {}`}}
	}
	preview := func() map[string]Change {
		config := ReplayConfig{Client: target, Recorded: store.recorded(t, captured), Progress: &counted{}}
		plan(&config)
		found := map[string]Change{}
		if err := Preview(t.Context(), config, func(c Change) error { found[c.Key.Name] = c; return nil }); err != nil {
			t.Fatal(err)
		}
		return found
	}

	told := preview()
	if len(told) != 3 || told["fresh"].Action != "create" || told["changed"].Action != "replace" || told["surplus"].Action != "prune" {
		t.Fatalf("told %s", toJSON(t, told))
	}
	if text := told["fresh"].Diff; !strings.Contains(text, "+    moved: \""+moved+"\"") {
		t.Errorf("the transformation shows as\n%s", text)
	}
	if text := told["changed"].Diff; !strings.Contains(text, "-  word: ") || !strings.Contains(text, "+  word: ") || strings.Contains(text, "cGxhbnRlZ") || strings.Contains(text, "planted") {
		t.Errorf("the difference shows as\n%s", text)
	}
	if again := preview(); len(again) != len(told) {
		t.Errorf("a preview changed what the next one tells: %s", toJSON(t, again))
	}
	result, found := replayed(t, target, captured, store, plan)
	if result.Created != 1 || result.Replaced != 1 || result.Pruned != 1 || result.Lost != 0 {
		t.Fatalf("replayed %s\n%s", toJSON(t, result), toJSON(t, found.all))
	}
	if rest := preview(); len(rest) != 0 {
		t.Errorf("after the replay it tells %s", toJSON(t, rest))
	}
}
