package cluster

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

func TestYAMLIsReadAsWhatItWasMadeFrom(t *testing.T) {
	for _, text := range []string{
		`{"a":{},"b":[],"c":[[],{}],"d":[[1,2],[{"x":1,"y":[{"z":null}]}]]}`,
		`{"script":"#!/bin/sh\n  echo hi\n\nexit 0\n","open":"a\nb","blank":"a\n\n","tab":"\ta\nb","cr":"a\r\nb"}`,
		`{"yes":"no","on":"off","true":"true","1":"1","1e3":"1e3","-":"-","":"","null":"null","~":"~","0x1F":"0x1F"}`,
		`{"n":12345678901234567,"f":0.5,"neg":-1,"big":1e+30,"t":true}`,
		`{"u":"\u0000\u0085\u2028\ufeff\u00e9\ud83d\ude00","k: v":"a: b","h":"x #y","*":"&a","%":"%","@":"` + "`" + `"}`,
		`{"list":["one\ntwo\n","three"],"nested":{"list":[{"text":"a\nb\n","n":1}]}}`,
		`{"date":"2026-01-02","time":"2026-01-02T03:04:05Z","sexagesimal":"12:30:45","colon":"a:"}`,
	} {
		sameYAML(t, object(t, text))
	}
}

func TestYAMLOfAnyObject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sameYAML(t, Object(anyMap(3).Draw(t, "object")))
	})
}

type failer interface {
	Fatalf(format string, arguments ...any)
}

func sameYAML(t failer, o Object) {
	text := appendYAML(nil, o)
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatalf("not YAML: %v\n%s", err, text)
	}
	want, err := yaml.YAMLToJSON(appendCanonical(nil, o)) // so that both sides lose the same digits of numbers
	if err != nil {
		t.Fatalf("canonical JSON is not YAML: %v", err)
	}
	if string(raw) != string(want) {
		t.Fatalf("read back as\n%s\nwant\n%s\nfrom\n%s", raw, want, text)
	}
}

func anyMap(depth int) *rapid.Generator[map[string]any] {
	return rapid.MapOfN(text(), anyValue(depth), 0, 4)
}

func anyValue(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		text().AsAny(), rapid.Bool().AsAny(), rapid.Just[any](nil),
		rapid.Map(rapid.IntRange(-1000, 1000), func(n int) any { return jsonNumber(n) }),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	nested := rapid.Map(anyMap(depth-1), func(m map[string]any) any { return m })
	list := rapid.Map(rapid.SliceOfN(anyValue(depth-1), 0, 4), func(l []any) any { return l })
	return rapid.OneOf(append(scalars, nested, list)...)
}

// text draws strings of what YAML finds special.
func text() *rapid.Generator[string] {
	return rapid.StringOfN(rapid.RuneFrom([]rune("ab1 .-:#\n\t\r\"'\\|>&*!%@`{}[],?~=<é\u0085\u2028😀")), 0, 12, -1)
}

func jsonNumber(n int) json.Number {
	text, _ := json.Marshal(n)
	return json.Number(text)
}
