package plans

import (
	"context"
	"encoding/json"
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
