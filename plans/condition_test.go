package plans

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

func decoded(t *testing.T, text string) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestConditionHolds(t *testing.T) {
	object := decoded(t, `{"spec": {"replicas": 3}, "status": {"readyReplicas": 3, "load": 0.5, "list": [1, 2]}}`)
	for text, want := range map[string]bool{
		`object.status.readyReplicas == object.spec.replicas`:   true,
		`object.spec.replicas - object.status.list[1] == 1`:     true,
		`object.status.load < 1`:                                true,
		`object.status.load > 1`:                                false,
		`has(object.status.conditions)`:                         false,
		`other == null`:                                         true,
		`object == null`:                                        false,
		`object != null && object.status.list.exists(n, n > 2)`: false,
	} {
		condition, err := NewCondition(text, "object", "other")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := condition.Holds(t.Context(), map[string]any{"object": object}); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestConditionsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		`objekt.name == "x"`:  `unknown name "objekt"; did you mean "object"?`,
		`cluster.name == "x"`: `unknown name "cluster"; known are object`,
		`"text"`:              "the expression gives string, want bool",
		`object.name ==`:      "Syntax error",
		strings.Repeat("true && ", 1000) + "true": "size",
	} {
		if _, err := NewCondition(text, "object"); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error is %v, want %q in it", text, err, want)
		}
	}
	for text, want := range map[string]string{
		`object.none == 1`: "no such key: none",
		`object.phase`:     "want true or false, got string",
		`object.list.all(a, object.list.all(b, object.list.all(c, a + b + c >= 0)))`: "cost",
	} {
		condition, err := NewCondition(text, "object")
		if err != nil {
			t.Fatal(err)
		}
		list := make([]any, 100)
		for i := range list {
			list[i] = json.Number("1")
		}
		value := map[string]any{"phase": "Running", "list": list}
		_, err = condition.Holds(context.Background(), map[string]any{"object": value})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q in it", text, err, want)
		}
	}
}

func TestChange(t *testing.T) {
	change, err := NewChange(`object.size > 3 ? {"spec": {"size": 3, "big": 9007199254740993, "gone": null, "of": [1, 0.5, "a", true]}} : {}`, "object")
	if err != nil {
		t.Fatal(err)
	}
	fields, err := change.Fields(t.Context(), map[string]any{"object": map[string]any{"size": json.Number("5")}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"spec": map[string]any{"size": int64(3), "big": int64(9007199254740993), "gone": nil, "of": []any{int64(1), 0.5, "a", true}}}
	if !reflect.DeepEqual(fields, want) {
		t.Errorf("got %#v", fields)
	}
	if fields, err := change.Fields(t.Context(), map[string]any{"object": map[string]any{"size": json.Number("1")}}); err != nil || len(fields) != 0 {
		t.Errorf("got %v, %v", fields, err)
	}
	for text, want := range map[string]string{
		`1`:                     "want map",
		`object.a`:              "want a map of fields",
		`{"a": b"bytes"}`:       "JSON has no bytes",
		`{"a": timestamp(0)}`:   "JSON has no",
		`{"a": {1: "one"}}`:     "a field's name is a text",
		`{"a": object.missing}`: "no such key",
	} {
		change, err := NewChange(text, "object")
		if err == nil {
			_, err = change.Fields(t.Context(), map[string]any{"object": map[string]any{"a": json.Number("1")}})
		}
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
