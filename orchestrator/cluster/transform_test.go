package cluster

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/providers/fault"
)

var update = flag.Bool("update", false, "write golden files")

// TestTransform compares what transformations make of objects with golden files.
func TestTransform(t *testing.T) {
	files, err := filepath.Glob("testdata/transform/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { goldenTransform(t, file) })
	}
}

func goldenTransform(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []Transformation
	if err := yaml.UnmarshalStrict(archive.Files[0].Data, &list); err != nil {
		t.Fatal(err)
	}
	changes, err := newTransformer(list)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, text := range strings.Split(string(archive.Files[1].Data), "---\n") {
		o, err := parseFile(file, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		changed, err := changes.apply(t.Context(), keyInTest(o), o)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(appendYAML(nil, changed)))
	}
	got := strings.Join(out, "---\n")
	if *update {
		archive.Files[2].Data = []byte(got)
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(archive.Files[2].Data); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func keyInTest(o Object) Key {
	group, _ := splitVersion(o.text("apiVersion"))
	return Key{Group: group, Resource: strings.ToLower(o.kind()) + "s", Namespace: o.namespace(), Name: o.name()}
}

func TestTransformationsThatCantBe(t *testing.T) {
	for text, want := range map[string]string{
		`[{namespace: {a: b}, kinds: [secrets]}]`:    "without kinds",
		`[{namespace: {a: b}}, {namespace: {a: c}}]`: "namespace a has another new name already",
		`[{kinds: ["[x"]}]`:                          "syntax error in pattern",
		`[{selector: "a in"}]`:                       "selector",
		`[{jsonPatch: [{op: put, path: /a}]}]`:       `operation 1 is "put"`,
		`[{jsonPatch: [{op: remove, path: a}]}]`:     "a path that begins with /",
		`[{cel: "object."}]`:                         "cel",
		`[{cel: "other.spec"}]`:                      `unknown name "other"`,
		`[{cel: "1"}]`:                               "want map",
	} {
		var list []Transformation
		if err := yaml.UnmarshalStrict([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		_, err := newTransformer(list)
		if err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestTransformationThatTakesTheNameIsRefused(t *testing.T) {
	changes, err := newTransformer([]Transformation{{JSONPatch: []map[string]any{{"op": "remove", "path": "/metadata/name"}}}})
	if err != nil {
		t.Fatal(err)
	}
	o := object(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"n"}}`)
	if _, err := changes.apply(t.Context(), keyInTest(o), o); fault.KindOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}
