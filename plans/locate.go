package plans

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// inside returns where a byte of a scalar's value stands in the file. YAML folds lines, doubles
// quotes and has escapes, so the value is followed through the file's text. Where the two do not
// match, it is the position of the scalar.
func (s *source) inside(node *yaml.Node, offset int) Position {
	if s == nil {
		return Position{}
	}
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	scalar := Position{s.file, node.Line, node.Column}
	if offset > len(node.Value) || node.Line < 1 || node.Line > len(s.lines) || node.Column < 1 {
		return scalar
	}
	w := &walker{lines: s.lines, line: node.Line - 1}
	if !w.enter(node) || !w.follow(node.Value[:offset]) {
		return scalar
	}
	found := Position{s.file, w.line + 1, utf8.RuneCountInString(w.lines[w.line][:w.at]) + 1}
	if _, size := utf8.DecodeRuneInString(node.Value[offset:]); !w.follow(node.Value[offset : offset+size]) {
		return scalar // what follows is something else: the walk went astray
	}
	return found
}

// walker follows a value through the lines that it was read from.
type walker struct {
	lines []string
	line  int  // from 0
	at    int  // byte in the line
	quote byte // of a quoted scalar
}

// enter goes to the first character of the scalar's content.
func (w *walker) enter(node *yaml.Node) bool {
	at, ok := runeIndex(w.lines[w.line], node.Column-1)
	if !ok {
		return false
	}
	w.at = at
	switch node.Style &^ yaml.TaggedStyle {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		if w.line+1 == len(w.lines) {
			return false
		}
		w.line, w.at = w.line+1, 0
		w.skipBlanks()
		return true
	case yaml.DoubleQuotedStyle:
		w.quote = '"'
	case yaml.SingleQuotedStyle:
		w.quote = '\''
	default:
		return true
	}
	if !strings.HasPrefix(w.rest(), string(w.quote)) {
		return false // a tag or an anchor stands before it
	}
	w.at++
	return true
}

func runeIndex(text string, n int) (int, bool) {
	at := 0
	for ; n > 0; n-- {
		if at >= len(text) {
			return 0, false
		}
		_, size := utf8.DecodeRuneInString(text[at:])
		at += size
	}
	return at, true
}

func (w *walker) rest() string { return w.lines[w.line][w.at:] }

// blanks are all that YAML makes of line breaks, and what it drops around them: runs of them stand
// for each other, whatever their lengths.
const blanks = " \t\r\n"

// follow consumes the file's text for a part of the value.
func (w *walker) follow(value string) bool {
	for value != "" {
		if trimmed := strings.TrimLeft(value, blanks); len(trimmed) < len(value) {
			w.skipBlanks()
			value = trimmed
			continue
		}
		if w.quote == '"' && w.rest() == `\` { // joins its line with the next
			w.skipBlanks()
		}
		_, size := utf8.DecodeRuneInString(value)
		length := w.match(value[:size])
		if length == 0 {
			return false
		}
		w.at += length
		value = value[size:]
	}
	return true
}

// match returns how many bytes of the file stand for a character here, 0 when it is another one.
func (w *walker) match(character string) int {
	rest := w.rest()
	switch {
	case w.quote == '"' && strings.HasPrefix(rest, `\`):
		return matchEscape(rest[1:], character)
	case w.quote == '\'' && strings.HasPrefix(rest, "''"):
		if character == "'" {
			return 2
		}
		return 0
	case strings.HasPrefix(rest, character):
		return len(character)
	default:
		return 0
	}
}

// matchEscape knows those that text has in practice; the numeric ones are believed.
func matchEscape(after, character string) int {
	length := 0
	switch {
	case after == "":
	case strings.HasPrefix(after, "x"):
		length = 4
	case strings.HasPrefix(after, "u"):
		length = 6
	case strings.HasPrefix(after, "U"):
		length = 10
	case strings.HasPrefix(after, character): // \\ and \"
		length = 1 + len(character)
	}
	if length > 1+len(after) {
		return 0
	}
	return length
}

// skipBlanks passes blanks, line breaks, and the escapes that stand for them.
func (w *walker) skipBlanks() {
	for {
		rest := w.rest()
		switch trimmed := strings.TrimLeft(rest, blanks); {
		case len(trimmed) < len(rest):
			w.at += len(rest) - len(trimmed)
		case (rest == "" || w.quote == '"' && rest == `\`) && w.line+1 < len(w.lines):
			w.line, w.at = w.line+1, 0
		case w.quote == '"' && len(rest) > 1 && rest[0] == '\\' && strings.IndexByte("ntr ", rest[1]) >= 0:
			w.at += 2
		default:
			return
		}
	}
}
