package plans

import (
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// sourceOf reads one YAML document.
func sourceOf(t interface{ Fatal(...any) }, text string) *source {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	return &source{"f", document.Content[0], strings.Split(text, "\n")}
}

// TestInside looks for the word HERE in values, in every form that YAML has for texts.
func TestInside(t *testing.T) {
	for text, want := range map[string]string{
		"a: x HERE":                                       "1:6",
		"a: äö HERE":                                      "1:7",
		"a:   \"x HERE\"":                                 "1:9",
		"a: \"\\\"\\t\\\\ HERE\"":                         "1:12",
		"a: \"\\u00e4\\x41\\U0001F600 HERE\"":             "1:26",
		"a: 'it''s HERE'":                                 "1:11",
		"a: one\n  two\n\n  three HERE":                   "4:9",
		"a: \"one\n   two \\\n   HERE\"":                  "3:4",
		"a: 'one\n\n\n   two HERE'":                       "4:8",
		"a: |\n  one\n   two HERE\n":                      "3:8",
		"a: |-\n\n  one\n\n  HERE":                        "5:3",
		"a: |2\n    one\n  HERE\n":                        "3:3",
		"a: >-\n  one\n  two\n\n    three\n  four HERE\n": "6:8",
		"a: >  # folded\n  HERE":                          "2:3",
		"a: one\r\n  HERE\r\n":                            "2:3",
		"b: &x y HERE\na: *x":                             "1:4", // an anchor stands before it
		"{a: HERE}":                                       "1:5",
		"a: !!str HERE":                                   "1:4", // and a tag
		"a: \"x\\_HERE\"":                                 "1:4", // an escape that is not followed
	} {
		s := sourceOf(t, text)
		node := s.node("a")
		value := node
		if node.Kind == yaml.AliasNode {
			value = node.Alias
		}
		if got := s.inside(node, strings.Index(value.Value, "HERE")).String(); got != "f:"+want {
			t.Errorf("%q: %s, want f:%s", text, got, want)
		}
	}
}

func TestInsideOfWhatIsNotThere(t *testing.T) {
	s := sourceOf(t, "a: x")
	if got := s.inside(s.node("a"), 1).String(); got != "f:1:5" {
		t.Errorf("the end is at %s", got)
	}
	if got := s.inside(s.node("a"), 9).String(); got != "f:1:4" {
		t.Errorf("past the end is at %s", got)
	}
	if got := s.inside(&yaml.Node{Value: "x"}, 0).String(); got != "f" {
		t.Errorf("a node without a place is at %s", got)
	}
	if got := (*source)(nil).inside(s.node("a"), 0); got != (Position{}) {
		t.Errorf("without a source it is at %s", got)
	}
}

// TestInsideFindsTheSameCharacter writes any text in any style and looks its characters up.
func TestInsideFindsTheSameCharacter(t *testing.T) {
	styles := []yaml.Style{0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.LiteralStyle, yaml.FoldedStyle}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ab'"\\ \n\tä:#{}$-]{1,40}`).Draw(t, "text")
		node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Style: rapid.SampledFrom(styles).Draw(t, "style")}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: "a"}
		raw, err := yaml.Marshal(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, node}})
		if err != nil {
			t.Fatal(err)
		}
		var document yaml.Node
		if err := yaml.Unmarshal(raw, &document); err != nil || document.Content[0].Content[1].Value != text {
			t.Skip("the library does not read back what it wrote")
		}
		s := sourceOf(t, string(raw))
		offset := rapid.IntRange(0, len(text)-1).Draw(t, "offset")
		want, _ := utf8.DecodeRuneInString(text[offset:])
		if !utf8.RuneStart(text[offset]) || strings.ContainsRune(blanks, want) {
			return
		}
		found := s.inside(s.node("a"), offset)
		at, ok := runeIndex(s.lines[found.Line-1], found.Column-1)
		got, _ := utf8.DecodeRuneInString(s.lines[found.Line-1][at:])
		escaped := got == '\\' || got == '\''
		scalar := found.Line == s.node("a").Line && found.Column == s.node("a").Column
		if !ok || got != want && !escaped && !scalar {
			t.Fatalf("%q: the %q at %d is found at %s, where %q stands:\n%s", text, want, offset, found, got, raw)
		}
	})
}
