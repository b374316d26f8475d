package plans

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
)

func TestParameterParse(t *testing.T) {
	letters := Parameter{Type: ParameterList, Pattern: "[a-z]*", Enum: []string{"a", "b", ""}}
	for _, each := range []struct {
		parameter Parameter
		text      string
		want      any
	}{
		{Parameter{Type: ParameterString}, "", ""},
		{Parameter{Type: ParameterString}, "3", "3"},
		{Parameter{Type: ParameterString, Pattern: "a|bc"}, "bc", "bc"},
		{Parameter{Type: ParameterInt}, "-9223372036854775808", int64(-1 << 63)},
		{Parameter{Type: ParameterInt, Min: int64(3), Max: int64(3)}, "3", int64(3)},
		{Parameter{Type: ParameterBool}, "true", true},
		{Parameter{Type: ParameterBool}, "false", false},
		{Parameter{Type: ParameterDuration}, "1d12h", Duration(36 * time.Hour)},
		{Parameter{Type: ParameterDuration, Min: "90s", Max: "1h"}, "1h", Duration(time.Hour)},
		{letters, "", []string{}},
		{letters, "a", []string{"a"}},
		{letters, "a,b,,a", []string{"a", "b", "", "a"}},
		{Parameter{Type: ParameterList}, `["a,b", "c"]`, []string{"a,b", "c"}},
		{Parameter{Type: ParameterList}, `[]`, []string{}},
	} {
		got, err := each.parameter.Parse(each.text)
		if err != nil || !reflect.DeepEqual(got, each.want) {
			t.Errorf("%s %q is %#v, %v; want %#v", each.parameter.Type, each.text, got, err, each.want)
		}
	}
}

func TestParameterRefuses(t *testing.T) {
	for _, each := range []struct {
		parameter  Parameter
		text, want string
	}{
		{Parameter{Type: ParameterInt}, "hunter2", "want a whole number"},
		{Parameter{Type: ParameterInt}, "1.0", "want a whole number"},
		{Parameter{Type: ParameterInt}, "9223372036854775808", "want a whole number"},
		{Parameter{Type: ParameterInt, Min: int64(3)}, "2", "want at least 3"},
		{Parameter{Type: ParameterInt, Max: int64(3)}, "4", "want at most 3"},
		{Parameter{Type: ParameterBool}, "yes", "want true or false"},
		{Parameter{Type: ParameterDuration}, "hunter2", "want a duration"},
		{Parameter{Type: ParameterDuration, Max: "1h"}, "61m", "want at most 1h"},
		{Parameter{Type: ParameterString, Pattern: "a|bc"}, "abc", "want text that matches a|bc as a whole"},
		{Parameter{Type: ParameterString, Enum: []string{"a", "b"}}, "hunter2", "want one of a, b"},
		{Parameter{Type: ParameterList, Enum: []string{"a", "b"}}, "a,hunter2", "want one of a, b"},
		{Parameter{Type: ParameterString}, "hunter2\xff", "want text in UTF-8"},
		{Parameter{Type: ParameterList}, `["hunter2", 1]`, `want a list: a,b,c or ["a","b","c"]`},
	} {
		got, err := each.parameter.Parse(each.text)
		if err == nil || !strings.HasPrefix(err.Error(), each.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s %q is %#v, %v; want %s", each.parameter.Type, each.text, got, err, each.want)
		}
	}
}

func TestParameterCheck(t *testing.T) {
	if err := (Parameter{Type: ParameterInt, Default: int64(1)}).Check(); err != nil {
		t.Error(err)
	}
	err := Parameter{Type: ParameterBool, Pattern: "x", Min: int64(1)}.Check()
	if want := "pattern: pattern is for the types string and list\nmin: min is for the types int and duration"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestParameterValuesSurviveJSON wants what is frozen to come back as it was.
func TestParameterValuesSurviveJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := map[ParameterType]any{
			ParameterString:   rapid.String().Draw(t, "string"),
			ParameterInt:      rapid.Int64().Draw(t, "int"),
			ParameterBool:     rapid.Bool().Draw(t, "bool"),
			ParameterDuration: Duration(rapid.Int64Min(0).Draw(t, "duration")),
			ParameterList:     rapid.SliceOf(rapid.String()).Draw(t, "list"),
		}
		scope := Scope{Plan: "p", Parameters: map[string]Parameter{}, Values: map[string]any{}}
		for kind, value := range values {
			scope.Parameters[string(kind)] = Parameter{Type: kind}
			scope.Values[string(kind)] = value
		}
		checked := &Checked{Plan: &Plan{}, Scopes: map[string]Scope{"": scope}}
		content, _, err := Freeze(checked)
		if err != nil {
			t.Fatal(err)
		}
		thawed, err := Thaw(content)
		if err != nil || !reflect.DeepEqual(thawed.Scopes, checked.Scopes) {
			t.Fatalf("%v: got %#v\nwant %#v", err, thawed.Scopes, checked.Scopes)
		}
	})
}

const parameterized = `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: switch}
spec:
  purpose: drill
  parameters:
    zone:
      type: string
      pattern: '[a-z.]+'
    replicas: {type: int, default: 3, min: 1}
    settle: {type: duration, default: 90s}
  steps:
    - {id: a, uses: any}
`

func TestSettings(t *testing.T) {
	set, err := Read("switch.yaml", strings.NewReader(parameterized))
	if err != nil {
		t.Fatal(err)
	}
	set.Repositories["r"], set.Machines["m"] = &Repository{}, &Machines{}
	checked, err := Check(set, "switch", vocabulary(), Setting{"zone", "a.b=c.d"[:3]}, Setting{"replicas", "5"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"zone": "a.b", "replicas": int64(5), "settle": Duration(90 * time.Second)}
	if got := checked.Scopes[""].Values; !reflect.DeepEqual(got, want) {
		t.Errorf("values are %v, want %v", got, want)
	}
	_, err = Check(set, "switch", vocabulary(), Setting{"zoen", "hunter2"}, Setting{"replicas", "hunter2"}, Setting{"replicas", "0"}, Setting{"colour", ""})
	text := `check plan switch: 6 problems
  switch.yaml:7:5: --set zoen: there is no parameter "zoen" in plan switch; did you mean "zone", declared at switch.yaml:7:5?
  switch.yaml:7:5: --set colour: there is no parameter "colour" in plan switch; known are replicas, settle, zone
  switch.yaml:7:5: parameter "zone" has no default: give it a value with --set zone=…
  switch.yaml:10:5: --set replicas: want a whole number
  switch.yaml:10:5: --set replicas: it is given twice
  switch.yaml:10:5: --set replicas: want at least 1`
	if err == nil || err.Error() != text {
		t.Errorf("got  %v\nwant %s", err, text)
	}
}

func TestStepsCanBeShownWithoutValues(t *testing.T) {
	set, err := Read("switch.yaml", strings.NewReader(parameterized))
	if err != nil {
		t.Fatal(err)
	}
	checked, err := CheckSteps(set, "switch", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	if err := Show(&page, checked, vocabulary()); err != nil || !strings.Contains(page.String(), "     zone      required (string)\n") {
		t.Errorf("%v: it shows\n%s", err, page.String())
	}
	_, err = checked.Wanted(Step{ID: "a", When: `params.zone == ""`}, Facts{})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `parameter "zone" of plan switch has no value`) {
		t.Errorf("error is %v", err)
	}
	if _, err := CheckSteps(set, "switch", vocabulary(), Setting{"zoen", ""}); err == nil {
		t.Error("a parameter that is not there was set")
	}
}

func TestParseSetting(t *testing.T) {
	for text, want := range map[string]Setting{"a=b": {"a", "b"}, "a=": {"a", ""}, "a=b=c": {"a", "b=c"}} {
		if got, err := ParseSetting(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a", "=b"} {
		if got, err := ParseSetting(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
}

func TestParameterAsJSON(t *testing.T) {
	raw, err := json.Marshal(Parameter{Type: ParameterInt, Default: int64(1), Min: int64(0)})
	if want := `{"type":"int","default":1,"min":0}`; err != nil || string(raw) != want {
		t.Errorf("got %s, %v; want %s", raw, err, want)
	}
}
