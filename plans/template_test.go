package plans

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func plainPart(text string) part           { return part{text: text} }
func celPart(text string, offset int) part { return part{text, true, offset} }
func cutInto(parts ...part) template       { return parts }
func withoutOffsets(t template) (out []part) {
	for _, p := range t {
		out = append(out, part{text: p.text, expression: p.expression})
	}
	return out
}

func TestParseTemplate(t *testing.T) {
	for text, want := range map[string]template{
		``:                           nil,
		`plain`:                      cutInto(plainPart(`plain`)),
		`$ $$ {} }`:                  cutInto(plainPart(`$ $$ {} }`)),
		`${item}`:                    cutInto(celPart(`item`, 2)),
		`${ a }-${b}!`:               cutInto(celPart(` a `, 2), plainPart(`-`), celPart(`b`, 9), plainPart(`!`)),
		`$${a}`:                      cutInto(plainPart(`${a}`)),
		`$$${a}`:                     cutInto(plainPart(`$${a}`)),
		`$${a}${b}`:                  cutInto(plainPart(`${a}`), celPart(`b`, 7)),
		`${ {"a": {}}["a"] }.`:       cutInto(celPart(` {"a": {}}["a"] `, 2), plainPart(`.`)),
		`${ "}" + '{' + "\"}" }`:     cutInto(celPart(` "}" + '{' + "\"}" `, 2)),
		`${ r"\" + b'}' + rb"\" }`:   cutInto(celPart(` r"\" + b'}' + rb"\" `, 2)),
		`${ """a"}"b""" + '''}''' }`: cutInto(celPart(` """a"}"b""" + '''}''' `, 2)),
		"${ a // no }\n + \"\" }":    cutInto(celPart(" a // no }\n + \"\" ", 2)),
		`${ a / b }`:                 cutInto(celPart(` a / b `, 2)),
		`äö${ "ü" }ß`:                cutInto(plainPart(`äö`), celPart(` "ü" `, 6), plainPart(`ß`)),
	} {
		got, problem := parseTemplate(text)
		if problem != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %+v, want %+v", text, got, problem, want)
		}
	}
}

func TestTextsThatAreNoTemplates(t *testing.T) {
	for text, want := range map[string]templateProblem{
		`${`:             {0, "has no end"},
		`a ${b`:          {2, "has no end"},
		`${ {a }`:        {0, "has no end"},
		`${ "}`:          {0, "has no end"},
		"${ \"a\n\" }":   {0, "has no end"},
		`${ 'a\' }`:      {0, "has no end"},
		`${ a // b }`:    {0, "has no end"},
		`x${}`:           {1, "is empty"},
		"${a} ${ \n\t }": {5, "is empty"},
	} {
		got, problem := parseTemplate(text)
		if problem == nil || problem.offset != want.offset || !strings.Contains(problem.text, want.text) {
			t.Errorf("%s: got %+v, %+v, want %+v", text, got, problem, want)
		}
	}
}

// drawTemplate draws parts that can't be told apart from others once they are joined: no two plain
// ones in a row, and none that ends with the $ of the expression after it.
func drawTemplate(t *rapid.T) (parts []part, text string) {
	plain := rapid.StringMatching(`[a$ {}"'ü\n]{0,6}`)
	expressions := rapid.SampledFrom([]string{`item`, ` a.b `, `{"k": "}"}["k"]`, `'\'}'`, `r'\'`, `"""}"""`, "1 // }\n", `"${item}"`, `[{}, {}]`})
	for range rapid.IntRange(0, 4).Draw(t, "pieces") {
		if before := strings.TrimRight(plain.Draw(t, "plain"), "$"); before != "" {
			parts, text = append(parts, part{text: before}), text+escape(before)
		}
		expression := expressions.Draw(t, "expression")
		parts, text = append(parts, part{text: expression, expression: true}), text+"${"+expression+"}"
	}
	if after := plain.Draw(t, "after"); after != "" {
		parts, text = append(parts, part{text: after}), text+escape(after)
	}
	return parts, text
}

func TestTemplatesComeApartAsTheyWerePut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, text := drawTemplate(t)
		got, problem := parseTemplate(text)
		if problem != nil || !reflect.DeepEqual(withoutOffsets(got), want) {
			t.Fatalf("%q: got %+v, %+v, want %+v", text, got, problem, want)
		}
		for _, p := range got {
			if p.expression && !strings.HasPrefix(text[p.offset:], p.text+"}") {
				t.Fatalf("%q: the expression %q does not stand at %d", text, p.text, p.offset)
			}
		}
	})
}

func TestEscapedTextStandsForItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a${}]{0,12}`).Draw(t, "text")
		cut, problem := parseTemplate(escape(text))
		if problem != nil || cut.dynamic() || unescape(escape(text)) != text {
			t.Fatalf("%q is %+v, %+v", text, cut, problem)
		}
		if len(cut) > 1 || text != "" && cut[0].text != text {
			t.Fatalf("%q is %+v", text, cut)
		}
	})
}

// FuzzInterpolate wants the parser to lose nothing: what it cuts, put together again, is the text.
func FuzzInterpolate(f *testing.F) {
	for _, text := range []string{
		"", "plain", "${item}", "a ${ b } $${c}", "$$${d}", `${ "}" }`, `${ r'\' }`, `${ '''}''' }`, "${ a // }\n}", "${ {", "${}", "$$", `${"\`,
	} {
		f.Add(text)
	}
	for _, expression := range []string{`{"a": '}'}["a"]`, `r"\" + b"}"`, "1 // }", `'''a'}'b'''`, `"\"}" + '\''`} {
		f.Add(expression)
	}
	env, err := newEnvironment(nil, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, issues := env.env.Parse(text); issues.Err() == nil && strings.TrimSpace(text) != "" {
			whole := text + "\n" // it may end with a comment
			if cut, problem := parseTemplate("${" + whole + "}"); problem != nil || !cut.single() || cut[0].text != whole {
				t.Fatalf("CEL reads %q as a whole, and it is cut into %+v, %+v", text, cut, problem)
			}
		}
		cut, problem := parseTemplate(text)
		if problem != nil {
			if cut != nil || problem.offset < 0 || problem.offset >= len(text) || !strings.HasPrefix(text[problem.offset:], opening) {
				t.Fatalf("%q: %+v, %+v", text, cut, problem)
			}
			return
		}
		var again strings.Builder
		for i, p := range cut {
			if p.text == "" || !p.expression && i > 0 && !cut[i-1].expression {
				t.Fatalf("%q: %+v has an empty part or two plain ones in a row", text, cut)
			}
			if !p.expression {
				again.WriteString(escape(p.text))
				continue
			}
			if text[p.offset:p.offset+len(p.text)] != p.text {
				t.Fatalf("%q: %q does not stand at %d", text, p.text, p.offset)
			}
			again.WriteString("${" + p.text + "}")
		}
		if again.String() != text && !strings.Contains(text, escaped) {
			t.Fatalf("%q comes back as %q", text, again.String())
		}
		second, problem := parseTemplate(again.String())
		if problem != nil || !reflect.DeepEqual(withoutOffsets(second), withoutOffsets(cut)) {
			t.Fatalf("%q: %+v becomes %+v, %+v", text, cut, second, problem)
		}
		if !cut.dynamic() && mentions(text) && (len(cut) != 1 || unescape(text) != cut[0].text) {
			t.Fatalf("%q is %+v, yet unescaped %q", text, cut, unescape(text))
		}
	})
}
