package corpus

import (
	"encoding/json"
	"strings"
	"testing"
)

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var o Object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestDiffer has a right and a wrong object for each way in which something can be wanted.
func TestDiffer(t *testing.T) {
	for _, c := range []struct{ want, right, wrong, problem string }{
		{`{"a": 1}`, `{"a": 1, "b": 2}`, `{"a": 2}`, "/a is 2, want 1"},
		{`{"a": 9007199254740993}`, `{"a": 9007199254740993}`, `{"a": 9007199254740992}`, "/a is"},
		{`{"a": 1}`, `{"a": 1}`, `{"a": "1"}`, `/a is "1", want 1`},
		{`{"a": 1}`, `{"a": 1}`, `{}`, "/a is absent, want 1"},
		{`{"a": false}`, `{"a": false}`, `{}`, "/a is absent, want false"},
		{`{"a": {"b/c": 1}}`, `{"a": {"b/c": 1, "d": 2}}`, `{"a": {"b/c": 2}}`, "/a/b~1c is 2"},
		{`{"a": {"b": 1}}`, `{"a": {"b": 1}}`, `{"a": [1]}`, "/a is [1]"},
		{`{"a": {}}`, `{"a": {}}`, `{}`, "/a is absent, want {}"},
		{`{"a": null}`, `{"a": null}`, `{"a": 1}`, "/a is 1, want absent"},
		{`{"a": [1, 2]}`, `{"a": [1, 2]}`, `{"a": [1, 3]}`, "/a/1 is 3, want 2"},
		{`{"a": [1]}`, `{"a": [1]}`, `{"a": [1, 2]}`, "/a is [1,2], want [1]"},
		{`{"a": [{"b": 1}]}`, `{"a": [{"b": 1, "c": 2}]}`, `{"a": [{"c": 2}]}`, "/a/0/b is absent"},
		{`{"a": []}`, `{"a": []}`, `{"a": [1]}`, "/a is [1], want []"},
		{`{"a": {"contains": [{"b": 1}]}}`, `{"a": [0, {"b": 1, "c": 2}]}`, `{"a": [{"b": 2}]}`, `/a is [{"b":2}], which lacks {"b":1}`},
		{`{"a": {"contains": [1]}}`, `{"a": [1]}`, `{}`, "/a is absent, which lacks 1"},
		{`{"a": "$(any)"}`, `{"a": 0}`, `{"a": ""}`, `/a is "", want "$(any)"`},
		{`{"a": "$(any)"}`, `{"a": [1]}`, `{"a": []}`, "/a is []"},
		{`{"a": "$(any)"}`, `{"a": {"b": 1}}`, `{}`, "/a is absent"},
		{`{"a": {"b": "$(absent)"}}`, `{}`, `{"a": {"b": 1}}`, "/a/b is 1"},
		{`{"a": {"b": "$(absent)"}}`, `{"a": {}}`, `{"a": {"b": ""}}`, `/a/b is ""`},
		{`{"a": "$(not:31010)"}`, `{"a": 31011}`, `{"a": 31010}`, "/a is 31010"},
		{`{"a": "$(not:x)"}`, `{"a": "y"}`, `{"a": "x"}`, `/a is "x"`},
		{`{"a": "$(not:x)"}`, `{"a": "y"}`, `{}`, "/a is absent"},
	} {
		if problems := differ("", object(t, c.want), object(t, c.right)); len(problems) > 0 {
			t.Errorf("want %s, have %s: %s", c.want, c.right, problems)
		}
		problems := differ("", object(t, c.want), object(t, c.wrong))
		if len(problems) != 1 || !strings.Contains(problems[0], c.problem) {
			t.Errorf("want %s, have %s: %q, not %q", c.want, c.wrong, problems, c.problem)
		}
	}
}

func TestProblemsStayShort(t *testing.T) {
	if text := short(strings.Repeat("x", 900000)); len(text) > 2*longest || !strings.HasSuffix(text, "(900002 bytes)") {
		t.Errorf("%d bytes: %s", len(text), text[len(text)-40:])
	}
}
