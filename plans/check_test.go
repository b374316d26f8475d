package plans

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/musterdr/muster/providers/fault"
)

func TestCheckErrorTexts(t *testing.T) {
	files, err := filepath.Glob("testdata/check/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			set := mustRead(t, "testdata/inventory.yaml", file)
			checked, err := Check(set, "checked", vocabulary())
			if checked != nil || !fault.Is(err, fault.Invalid) {
				t.Fatalf("got %v, %v", checked, err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", []byte(err.Error()+"\n"))
		})
	}
}

func TestCheckFindsDocuments(t *testing.T) {
	set := mustRead(t, "testdata/inventory.yaml", "builtin/capture.yaml", "builtin/rebuild.yaml")
	capture, err := Check(set, "capture", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	if capture.Cluster != set.Clusters["prod"] || capture.Repository != set.Repositories["vault"] || capture.Machines != nil {
		t.Errorf("capture refers to %+v", capture)
	}
	rebuild, err := Check(set, "rebuild", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	if rebuild.Cluster != nil || rebuild.Repository != set.Repositories["vault"] || rebuild.Machines != set.Machines["spare"] {
		t.Errorf("rebuild refers to %+v", rebuild)
	}
	if _, err := Check(set, "captur", vocabulary()); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), `did you mean "capture"?`) {
		t.Errorf("error is %v", err)
	}
}

func TestCheckWithoutDocuments(t *testing.T) {
	set := mustRead(t, "builtin/capture.yaml")
	_, err := Check(set, "capture", vocabulary())
	want := `check plan capture: 2 problems
  builtin/capture.yaml:9:3: a capture plan works with a Cluster document and none was read; add one
  builtin/capture.yaml:9:3: a capture plan works with a Repository document and none was read; add one`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	checked, err := CheckSteps(set, "capture", vocabulary())
	if err != nil || checked.Cluster != nil || len(checked.Graph.Order()) != 6 {
		t.Errorf("got %+v, %v", checked, err)
	}
	set.Clusters["a"], set.Clusters["b"] = &Cluster{}, &Cluster{}
	set.Repositories["r"] = &Repository{}
	_, err = Check(set, "capture", vocabulary())
	if want := "cluster is missing and there are several; known are a, b"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestCheckOfPlanWithoutSource(t *testing.T) {
	set := NewSet()
	set.Plans["made"] = &Plan{Metadata: Metadata{Name: "made"}, Spec: PlanSpec{
		Purpose: Capture,
		Steps:   []Step{{ID: "apps", Uses: "capture-namespaces", With: map[string]any{"exlude": []any{"a"}}, When: "1"}},
	}}
	_, err := CheckSteps(set, "made", vocabulary())
	want := `check plan made: 2 problems
  when: the expression gives int, want bool
  unknown field "exlude"; did you mean "exclude"?`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestCheckOfTemplatesWithoutSource(t *testing.T) {
	set := NewSet()
	set.Plans["inner"] = &Plan{Metadata: Metadata{Name: "inner"}, Spec: PlanSpec{
		Purpose: Capture, Parameters: map[string]Parameter{"n": {Type: ParameterInt}},
		Steps: []Step{{ID: "a", Uses: "any", With: map[string]any{"text": "${ params.n }", "texts": []any{"${ params.m", "${item}"}}}},
	}}
	set.Plans["made"] = &Plan{Metadata: Metadata{Name: "made"}, Spec: PlanSpec{
		Purpose: Capture,
		Steps:   []Step{{ID: "in", Uses: IncludePlan, With: map[string]any{"plan": "inner", "parameters": map[string]any{"n": "${ point }", "nn": 1}}}},
	}}
	_, err := CheckSteps(set, "made", vocabulary())
	want := `check plan made: 5 problems
  n: the expression gives string, want a whole number
  there is no parameter "nn" in plan inner; did you mean "n"?
  text: the expression gives int, want text
  texts[0]: the expression that begins here has no end: } is missing; for the text ${ itself write $${
  texts[1]: item is not known here: it is the item's name in ` + "`with`" + ` of a step that has items; give it forEach`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestCheckAsksStepsThatCheckThemselves(t *testing.T) {
	for with, want := range map[string]string{
		"{count: 1}":          `p.yaml:7:39: with: check settings count: it counts text, and there is none`,
		"{count: 1, text: a}": "",
		"{count: 1, text: \"${ params.given }\"}": "", // known when the step runs
	} {
		text := "apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: p}\nspec:\n  purpose: capture\n" +
			"  parameters: {given: {type: string, default: \"\"}}\n  steps: [{id: a, uses: any, with:    " + with + "}]\n"
		set, err := Read("p.yaml", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = CheckSteps(set, "p", vocabulary())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", with, err, want)
		}
	}
	if err := Decode(map[string]any{"count": int64(1), "text": ""}, &anyStep{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("at the step's start the error is %v", err)
	}
}

func TestBuiltinPlansAreSound(t *testing.T) {
	want := []string{"capture", "rebuild", "replay"}
	if got := BuiltinNames(); !slices.Equal(got, want) {
		t.Fatalf("names are %v, want %v", got, want)
	}
	for _, name := range want {
		content, ok := Builtin(name)
		if !ok {
			t.Fatalf("%s is not there", name)
		}
		set, err := Read(name+".yaml", bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		checked, err := CheckSteps(set, name, vocabulary())
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := Show(&text, checked, vocabulary()); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/show/builtin-"+name+".txt", text.Bytes())
	}
	if _, ok := Builtin("../documents"); ok {
		t.Error("a path outside of the folder was read")
	}
}

func TestShow(t *testing.T) {
	set := mustRead(t, "testdata/inventory.yaml", "testdata/show/full.yaml")
	checked, err := Check(set, "checked", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := Show(&text, checked, vocabulary()); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/show/full.txt", text.Bytes())
	fitsPage(t, text.String())
}

// fitsPage wants at most 80 columns and no blanks at the ends of lines.
func fitsPage(t *testing.T, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if utf8.RuneCountInString(line) > 80 {
			t.Errorf("longer than 80 columns: %q", line)
		}
		if strings.TrimRight(line, " ") != line {
			t.Errorf("blanks at the end: %q", line)
		}
	}
}
