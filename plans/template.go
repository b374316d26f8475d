package plans

import (
	"strings"
	"unicode/utf8"
)

// A template is a text of `with`, cut into what stands as it is and the expressions in it:
//
//	backup of ${ params.zone } at ${now}
//
// An expression ends at the brace that closes its own, whatever braces, strings and comments it
// holds. $${ stands for ${ itself.
type template []part

// part is one piece of a template: an expression without its ${ and }, or plain text.
type part struct {
	text       string
	expression bool
	offset     int // of an expression's first byte in the text it was cut from
}

// templateProblem is a place, in bytes, where a text is no template.
type templateProblem struct {
	offset int
	text   string
}

const (
	opening = "${"
	escaped = "$${"
)

// parseTemplate cuts a text. Every text is a template but one with an expression that is empty or
// has no end.
func parseTemplate(text string) (template, *templateProblem) {
	var out template
	var plain strings.Builder
	for at := 0; at < len(text); {
		rest := text[at:]
		switch {
		case strings.HasPrefix(rest, escaped):
			plain.WriteString(opening)
			at += len(escaped)
		case strings.HasPrefix(rest, opening):
			begin := at + len(opening)
			length := expressionEnd(text[begin:])
			if length < 0 {
				return nil, &templateProblem{at, "the expression that begins here has no end: } is missing; for the text ${ itself write $${"}
			}
			inside := text[begin : begin+length]
			if strings.TrimSpace(inside) == "" {
				return nil, &templateProblem{at, "the expression is empty; for the text ${} itself write $${}"}
			}
			out = out.plain(&plain)
			out = append(out, part{inside, true, begin})
			at = begin + length + 1
		default:
			next := strings.IndexByte(rest[1:], '$') + 1
			if next == 0 {
				next = len(rest)
			}
			plain.WriteString(rest[:next])
			at += next
		}
	}
	return out.plain(&plain), nil
}

// plain moves collected text into the template.
func (t template) plain(collected *strings.Builder) template {
	if collected.Len() == 0 {
		return t
	}
	t = append(t, part{text: collected.String()})
	collected.Reset()
	return t
}

// dynamic reports whether there is an expression.
func (t template) dynamic() bool {
	for _, p := range t {
		if p.expression {
			return true
		}
	}
	return false
}

// single reports whether the whole text is one expression, so that its value keeps its type.
func (t template) single() bool { return len(t) == 1 && t[0].expression }

// escape makes the template that stands for a text itself.
func escape(text string) string { return strings.ReplaceAll(text, opening, escaped) }

// mentions reports whether a text needs parseTemplate at all.
func mentions(text string) bool { return strings.Contains(text, opening) }

// expressionEnd finds the brace that ends a CEL expression, -1 when there is none.
func expressionEnd(text string) int {
	depth := 0
	for at := 0; at < len(text); {
		switch text[at] {
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return at
			}
			depth--
		case '"', '\'':
			length := stringLength(text[at:], isRaw(text[:at]))
			if length < 0 {
				return -1
			}
			at += length
			continue
		case '/':
			if strings.HasPrefix(text[at:], "//") {
				line := strings.IndexByte(text[at:], '\n')
				if line < 0 {
					return -1
				}
				at += line
			}
		}
		at++
	}
	return -1
}

// stringLength is the length of the CEL string that a text begins with, quotes included, -1 when it
// has no end. Raw strings have no escapes; those of three quotes may hold line breaks.
func stringLength(text string, raw bool) int {
	quote := text[:1]
	if strings.HasPrefix(text, strings.Repeat(quote, 3)) {
		quote = text[:3]
	}
	for at := len(quote); at < len(text); {
		switch {
		case strings.HasPrefix(text[at:], quote):
			return at + len(quote)
		case text[at] == '\\' && !raw:
			at += 2
		case text[at] == '\n' && len(quote) == 1:
			return -1
		default:
			at++
		}
	}
	return -1
}

// isRaw reports whether a quote after this text begins a raw string: r"…", with a b for bytes on
// either side of the r, and nothing before that would make them the end of a name.
func isRaw(before string) bool {
	end := len(before)
	for end > 0 && len(before)-end < 2 && strings.ContainsRune("rRbB", rune(before[end-1])) {
		end--
	}
	if last, _ := utf8.DecodeLastRuneInString(before[:end]); last == '_' || isLetterOrDigit(last) {
		return false
	}
	return strings.ContainsAny(before[end:], "rR")
}

func isLetterOrDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// unescape is the text of a template without expressions.
func unescape(text string) string { return strings.ReplaceAll(text, escaped, opening) }
