package cluster

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func compareWith(t *testing.T, client *Client, captured Captured, store *memory, mode Mode) Comparison {
	t.Helper()
	comparison, err := Compare(t.Context(), CompareConfig{
		Client: client, Mode: mode, Recorded: store.recorded(t, captured),
	})
	if err != nil {
		t.Fatal(err)
	}
	return comparison
}

func TestCompareFindsWhatChanged(t *testing.T) {
	client := connect(t, shared.Need(t))
	newNamespace(t, client, "compare")
	base := "/api/v1/namespaces/compare"
	for _, name := range []string{"same", "changed", "deleted", "again"} {
		create(t, client, base+"/secrets", secret(name, map[string]any{"password": "hunter2"}))
	}
	captured, store := captureAll(t, client, func(c *CaptureConfig) { c.Include = []string{"compare"} })
	before := compareWith(t, client, captured, store, ModeRebuild)
	if !before.Same() || before.Captured != before.Living || before.Equal == 0 || before.Expected != captured.Layer.Objects {
		t.Fatalf("an untouched cluster compares as %s", toJSON(t, before))
	}

	patch(t, client, base+"/secrets/changed", `{"stringData":{"password":"hunter3","more":"x"},"metadata":{"labels":{"a/b":"c"}}}`)
	drop(t, client, base+"/secrets/deleted")
	drop(t, client, base+"/secrets/again")
	create(t, client, base+"/secrets", secret("again", map[string]any{"password": "hunter2"}))
	create(t, client, base+"/secrets", secret("later", nil))
	after := compareWith(t, client, captured, store, ModeRebuild)
	want := []Difference{
		{Key: "core/secrets/compare/again", What: "different", Fields: []string{"/metadata/creationTimestamp", "/metadata/uid"}},
		{Key: "core/secrets/compare/changed", What: "different", Fields: []string{"/data/more", "/data/password", "/metadata/labels"}},
		{Key: "core/secrets/compare/deleted", What: "missing"},
		{Key: "core/secrets/compare/later", What: "extra"},
	}
	got := slices.Clone(after.Differences)
	for i := range got { // made within the same second, or not
		got[i].Fields = slices.DeleteFunc(slices.Clone(got[i].Fields), func(f string) bool { return f == "/metadata/creationTimestamp" })
		want[i].Fields = slices.DeleteFunc(want[i].Fields, func(f string) bool { return f == "/metadata/creationTimestamp" })
	}
	if toJSON(t, got) != toJSON(t, want) {
		t.Errorf("differences are %s, want %s", toJSON(t, got), toJSON(t, want))
	}
	if after.Missing != 1 || after.Extra != 1 || after.Different != 2 || after.Same() || after.Captured == after.Living {
		t.Errorf("tally is %s", toJSON(t, after.Tally))
	}
	if after.Expected != after.Equal+after.Excused+after.Missing+after.Different {
		t.Errorf("the tally does not add up: %s", toJSON(t, after.Tally))
	}
	if text := toJSON(t, after); strings.Contains(text, "hunter") || strings.Contains(text, "aHVudGVy") {
		t.Error("the result holds the value of a Secret")
	}
	if replay := compareWith(t, client, captured, store, ModeReplay); replay.Different != 1 || replay.Missing != 1 || replay.Extra != 0 {
		t.Errorf("without UIDs the tally is %s", toJSON(t, replay.Tally))
	}
}

func TestComparePairsReplacedPods(t *testing.T) {
	client := connect(t, shared.Need(t))
	newNamespace(t, client, "pods")
	base := "/api/v1/namespaces/pods"
	create(t, client, base+"/serviceaccounts", Object{"metadata": map[string]any{"name": "default"}})
	pod := func(name, owner string) Object {
		o := object(t, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}}`, name))
		if owner != "" {
			o.metadata()["ownerReferences"] = []any{map[string]any{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}}
		}
		return o
	}
	for name, owner := range map[string]string{"web-1": "web", "web-2": "web", "api-1": "api", "bare": ""} {
		create(t, client, base+"/pods", pod(name, owner))
	}
	captured, store := captureAll(t, client, func(c *CaptureConfig) { c.Include = []string{"pods"} })
	for _, name := range []string{"web-1", "web-2", "api-1", "bare"} {
		drop(t, client, base+"/pods/"+name+"?gracePeriodSeconds=0")
	}
	create(t, client, base+"/pods", pod("web-3", "web"))
	create(t, client, base+"/pods", pod("other", "job"))
	result := compareWith(t, client, captured, store, ModeRebuild)
	var missing []string
	for _, d := range result.Differences {
		missing = append(missing, d.What+" "+d.Key)
	}
	slices.Sort(missing)
	if want := []string{"missing core/pods/pods/api-1", "missing core/pods/pods/bare", "missing core/pods/pods/web-2"}; !slices.Equal(missing, want) {
		t.Errorf("differences are %v, want %v", missing, want)
	}
}

func TestRemovePointer(t *testing.T) {
	for _, c := range []struct{ pointer, from, to string }{
		{"/a", `{"a":1,"b":2}`, `{"b":2}`},
		{"/a/b", `{"a":{"b":1}}`, `{}`},
		{"/a/b", `{"a":{"b":1,"c":2}}`, `{"a":{"c":2}}`},
		{"/a/*/b", `{"a":[{"b":1,"c":1},{"b":2},3]}`, `{"a":[{"c":1},{},3]}`},
		{"/a/x~1*", `{"a":{"x/1":1,"x/2":1,"y":1}}`, `{"a":{"y":1}}`},
		{"/a/~0", `{"a":{"~":1,"y":1}}`, `{"a":{"y":1}}`},
		{"/a/b", `{"a":"text"}`, `{"a":"text"}`},
		{"/a", `{}`, `{}`},
	} {
		o := object(t, c.from)
		removePointer(o, c.pointer)
		if got := string(appendCanonical(nil, o)); got != c.to {
			t.Errorf("%s from %s leaves %s, want %s", c.pointer, c.from, got, c.to)
		}
	}
}

func TestExceptionsNameRulesThatExist(t *testing.T) {
	for _, e := range exceptions() {
		if e.Reason == "" || e.mode != "" && e.mode != ModeRebuild && e.mode != ModeReplay {
			t.Errorf("exception %+v", e.Rule)
		}
	}
}

func patch(t testing.TB, client *Client, path, body string) {
	t.Helper()
	r := request{method: http.MethodPatch, path: path, contentType: "application/merge-patch+json", body: []byte(body)}
	if err := client.call(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
}

func drop(t testing.TB, client *Client, path string) {
	t.Helper()
	if err := client.call(t.Context(), request{method: http.MethodDelete, path: path}, nil); err != nil {
		t.Fatal(err)
	}
}
