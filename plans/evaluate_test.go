package plans

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
)

// withParams is a checked plan whose parameters have these values.
func withParams() *Checked {
	return &Checked{Scopes: map[string]Scope{"": {
		Plan: "p",
		Parameters: map[string]Parameter{
			"zone": {Type: ParameterString}, "n": {Type: ParameterInt}, "on": {Type: ParameterBool},
			"wait": {Type: ParameterDuration}, "names": {Type: ParameterList},
		},
		Values: map[string]any{
			"zone": "example.org", "n": int64(9007199254740993), "on": true, "wait": Duration(90 * time.Second), "names": []string{"a", "b"},
		},
	}}}
}

func TestExpandGivesValuesTheirTypes(t *testing.T) {
	for text, want := range map[string]any{
		`plain`:                           "plain",
		`$${item}`:                        "${item}",
		`${item}`:                         "w-0",
		` ${item}`:                        " w-0",
		`${ item + "!" }`:                 "w-0!",
		`${ params.zone }`:                "example.org",
		`${ params.n }`:                   int64(9007199254740993),
		`n=${ params.n }`:                 "n=9007199254740993",
		`${ params.on }${ !params.on }`:   "truefalse",
		`${ params.wait }`:                "1m30s",
		`${ params.wait * 2 }`:            nil,
		`up to ${ params.wait }`:          "up to 1m30s",
		`${ params.names }`:               []any{"a", "b"},
		`${ {"k": [1, 1.5, true]} }`:      map[string]any{"k": []any{int64(1), 1.5, true}},
		`${ receipts.etcd.revision }`:     int64(4711),
		`r${ receipts.etcd.revision }`:    "r4711",
		`${ receipts.etcd.members }`:      []any{"a", "b"},
		`${ 1.25 }/${ 2u }/${ -3.0 }`:     "1.25/2/-3",
		`${ now }`:                        "2026-03-01T12:00:00Z",
		`${ now + params.wait } ${point}`: "2026-03-01T12:01:30Z prod-20260301",
		`${ cluster.machines[1].name }`:   "w-0",
		`${ null }`:                       nil,
		`${ "}" }`:                        "}",
		`${ has(params.zone) }`:           true,
	} {
		with := map[string]any{"a": []any{map[string]any{"b": text}}, "c": int64(1)}
		got, err := withParams().Expand(Step{ID: "s", With: with}, "w-0", facts())
		if text == `${ params.wait * 2 }` {
			if err == nil {
				t.Errorf("%s: no error", text)
			}
			continue
		}
		expected := map[string]any{"a": []any{map[string]any{"b": want}}, "c": int64(1)}
		if err != nil || !reflect.DeepEqual(got, expected) {
			t.Errorf("%s is %#v, %v; want %#v", text, got["a"], err, want)
		}
		if with["a"].([]any)[0].(map[string]any)["b"] != text {
			t.Errorf("%s: the plan itself was changed", text)
		}
	}
	if got, err := withParams().Expand(Step{ID: "s"}, "w-0", facts()); got != nil || err != nil {
		t.Errorf("no settings became %v, %v", got, err)
	}
}

func TestExpandRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`${ receipts.none.x }`:       `a[0].b: receipts.none.x: no such key: none`,
		`x${ receipts.etcd }`:        `a[0].b: receipts.etcd: a list or a mapping can't be put into a text`,
		`x${ receipts.etcd.members}`: `a[0].b: receipts.etcd.members: a list or a mapping can't be put into a text`,
		`x${ dyn(null) }`:            `a[0].b: dyn(null): there is no value to put into the text`,
		`${ cluster }`:               `a[0].b: cluster: a plans.ClusterFacts can't be a setting`,
		`${ [cluster] }`:             `a[0].b: [cluster]: a plans.ClusterFacts can't be a setting`,
		`${ {1: 2} }`:                `a[0].b: {1: 2}: want text as the keys of a mapping`,
		`${ 18446744073709551615u }`: `a[0].b: 18446744073709551615u: the number does not fit`,
		`${ 1.0 / 0.0 }`:             `a[0].b: 1.0 / 0.0: want a finite number`,
		`${ 1 / 0 }`:                 `a[0].b: 1 / 0: division by zero`,
		`${ params.x }`:              `a[0].b: params.x: there is no parameter "x"; known are n, names, on, wait, zone`,
		`${ dyn(params) }`:           `a[0].b: dyn(params): `,
		`${ b"x" }`:                  `a[0].b: b"x": a bytes can't be a setting`,
		`${`:                         `a[0].b: the expression that begins here has no end`,
	} {
		step := Step{ID: "s", With: map[string]any{"a": []any{map[string]any{"b": text}}}}
		_, err := withParams().Expand(step, "", facts())
		if !fault.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "evaluate with s: "+want) {
			t.Errorf("%s: error is %v, want %s", text, err, want)
		}
	}
}

func TestExpandInIncludedPlans(t *testing.T) {
	checked := checkedNightly(t)
	receipts := map[string]any{
		"ask": map[string]any{"values": map[string]any{"ticket": "T-1"}}, "dns.start": map[string]any{"well": true},
		"dns.zones.first": map[string]any{"id": "f"}, "first": map[string]any{"id": "of another plan"},
	}
	facts := Facts{Receipts: func() map[string]any { return receipts }}
	for id, want := range map[string]map[string]any{
		"dns.start":        {"text": "T-1: ${ not an expression }", "wait": "1m30s"},
		"dns.zones.first":  {"text": "internal.example.org."},
		"dns.zones.second": {"text": "f", "count": int64(2)},
		"dns.each":         {"text": "api.internal.example.org"},
		"end":              {"text": "f of example.org is true"},
	} {
		step := checked.Plan.Spec.Steps[checked.Graph.index[id]]
		got, err := checked.Expand(step, "api", facts)
		if id == "dns.start" { // costs $${5} is not asked for, ticket is
			want["text"] = "T-1: costs ${5}"
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v; want %v", id, got, err, want)
		}
		if wanted, err := checked.Wanted(step, facts); !wanted || err != nil {
			t.Errorf("%s is wanted: %v, %v", id, wanted, err)
		}
		if reads, want := checked.ReadsReceipts(step), id != "dns.zones.first" && id != "dns.each"; reads != want {
			t.Errorf("%s reads receipts: %v, want %v", id, reads, want)
		}
	}
	items, err := checked.Items(checked.Plan.Spec.Steps[checked.Graph.index["dns.each"]], Facts{})
	if err != nil || !reflect.DeepEqual(items, []string{"api", "web"}) {
		t.Errorf("items are %v, %v", items, err)
	}
}

func TestConditionsOfIncludesComeFirst(t *testing.T) {
	broken := Facts{Receipts: func() map[string]any { panic("nobody reads a receipt") }}
	checked := checkedNightly(t, Setting{"announce", "false"})
	for _, id := range []string{"dns.start", "dns.zones.second"} {
		wanted, err := checked.Wanted(checked.Plan.Spec.Steps[checked.Graph.index[id]], broken)
		if wanted || err != nil {
			t.Errorf("%s is wanted: %v, %v", id, wanted, err)
		}
	}
	checked = checkedNightly(t)
	wanted, err := checked.Wanted(checked.Plan.Spec.Steps[checked.Graph.index["dns.zones.second"]], Facts{})
	if wanted || !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "receipts.start.well: no such key: start") {
		t.Errorf("wanted: %v, %v", wanted, err)
	}
}

func TestParametersOfIncludesAreChecked(t *testing.T) {
	checked := checkedNightly(t, Setting{"names", "api,nowhere"})
	step := checked.Plan.Spec.Steps[checked.Graph.index["dns.each"]]
	_, err := checked.Items(step, Facts{})
	want := `evaluate forEach dns.each: params.names: parameter "names" of plan announce: want one of api, web, db`
	if !fault.Is(err, fault.Invalid) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestReceiptsAreDecodedOnce(t *testing.T) {
	calls := 0
	facts := Facts{Receipts: func() map[string]any { calls++; return map[string]any{"a": map[string]any{"b": "c"}} }}
	step := Step{ID: "s", With: map[string]any{"x": "${ receipts.a.b }${ receipts.a.b }", "y": "${ receipts.a.b }"}}
	if _, err := (&Checked{}).Expand(step, "", facts); err != nil || calls != 1 {
		t.Errorf("receipts were asked for %d times: %v", calls, err)
	}
	step.With = map[string]any{"x": "${ item }${ point }"}
	if _, err := (&Checked{}).Expand(step, "", facts); err != nil || calls != 1 {
		t.Errorf("receipts were asked for %d times: %v", calls, err)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	var step anyStep
	on := true
	settings := map[string]any{
		"text": "on", "number": int64(3), "count": int64(4), "on": true, "wait": "90s", "texts": []any{"1", "~"},
		"labels": map[string]any{"a": "2024-01-01"}, "free": []any{nil, 1.5, map[string]any{"b": int64(1)}},
	}
	if err := Decode(settings, &step); err != nil {
		t.Fatal(err)
	}
	want := anyStep{
		Text: "on", Number: 3, Count: 4, On: &on, Wait: Duration(90 * time.Second), Texts: []string{"1", "~"},
		Labels: map[string]string{"a": "2024-01-01"}, Free: []any{nil, 1.5, map[string]any{"b": int64(1)}},
	}
	if !reflect.DeepEqual(step, want) {
		t.Errorf("got  %+v\nwant %+v", step, want)
	}
	err := Decode(map[string]any{"text": int64(1), "count": 1.5, "wait": "hunter2", "labels": []any{}, "tetx": "x"}, &step)
	for _, text := range []string{
		"5 problems", "text: want text, found a number", "count: want a whole number", "wait: want a duration",
		"labels: want a mapping, found a list", `unknown field "tetx"; did you mean "text"?`,
	} {
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v, want %q in it", err, text)
		}
	}
	if err := Decode(nil, &step); err != nil {
		t.Error(err)
	}
}

// TestExpandIsTheInverseOfEscape wants text that is no expression to come out as people meant it,
// however it is nested, and values of parameters to pass through texts unharmed.
func TestExpandIsTheInverseOfEscape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a${}"ü ]{0,10}`).Draw(t, "text")
		value := rapid.String().Draw(t, "value")
		checked := withParams()
		checked.Scopes[""].Values["zone"] = value
		with := map[string]any{
			"literal": []any{escape(text)}, "alone": "${ params.zone }", "inside": escape("<"+text+">") + "${params.zone}" + escape(text),
		}
		want := map[string]any{"literal": []any{text}, "alone": value, "inside": "<" + text + ">" + value + text}
		got, err := checked.Expand(Step{ID: "s", With: with}, "", Facts{})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	})
}

// TestNumbersPassThroughTexts wants what stands in a text to be read back as the same number.
func TestNumbersPassThroughTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, f := rapid.Int64().Draw(t, "int"), rapid.Float64().Draw(t, "float")
		facts := Facts{Receipts: func() map[string]any { return map[string]any{"a": map[string]any{"n": n, "f": f}} }}
		step := Step{ID: "s", With: map[string]any{"n": "${ receipts.a.n }", "f": "<${ receipts.a.f }>"}}
		got, err := (&Checked{}).Expand(step, "", facts)
		if err != nil || got["n"] != n {
			t.Fatalf("%d is %v, %v", n, got["n"], err)
		}
		var back float64
		if _, err := fmt.Sscanf(got["f"].(string), "<%g>", &back); err != nil || back != f {
			t.Fatalf("%v is %v: %v", f, got["f"], err)
		}
	})
}
