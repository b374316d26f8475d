package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
)

// appendYAML appends an object as a YAML document: keys sorted, two spaces a level, text of several
// lines as a literal block where that can hold it exactly, every other string quoted as in JSON
// unless no YAML reader can take it for something else. A recovery point holds one for each object,
// and the general encoders are too slow for that.
func appendYAML(out []byte, o Object) []byte {
	if len(o) == 0 {
		return append(out, "{}\n"...)
	}
	return appendBlock(out, map[string]any(o), 0)
}

func appendBlock(out []byte, value any, depth int) []byte {
	switch v := value.(type) {
	case Object:
		return appendBlockMap(out, v, depth)
	case map[string]any:
		return appendBlockMap(out, v, depth)
	case []any:
		for _, entry := range v {
			out = append(indent(out, depth), '-')
			out = appendNested(out, entry, depth+1, true)
		}
		return out
	}
	panic(fmt.Sprintf("cluster: a YAML block of a %T", value))
}

func appendBlockMap(out []byte, m map[string]any, depth int) []byte {
	for _, key := range sortedKeys(m) {
		out = append(appendScalarText(indent(out, depth), key), ':')
		out = appendNested(out, m[key], depth+1, false)
	}
	return out
}

// appendNested appends what follows "key:" or "-", the line's end included.
func appendNested(out []byte, value any, depth int, item bool) []byte {
	switch v := value.(type) {
	case map[string]any:
		if len(v) == 0 {
			return append(out, " {}\n"...)
		}
		if item { // the first key stands beside the dash
			start := len(out) + 1
			out = appendBlock(append(out, ' '), v, depth)
			return append(out[:start], out[start+2*depth:]...)
		}
		return appendBlock(append(out, '\n'), v, depth)
	case []any:
		if len(v) == 0 {
			return append(out, " []\n"...)
		}
		if item {
			return appendBlock(append(out, '\n'), v, depth)
		}
		return appendBlock(append(out, '\n'), v, depth-1) // a list may stand at its key's depth
	case string:
		if literal(v) {
			return appendLiteral(out, v, depth)
		}
		return append(appendScalarText(append(out, ' '), v), '\n')
	case json.Number:
		return append(append(append(out, ' '), v...), '\n')
	}
	return append(appendCanonical(append(out, ' '), value), '\n')
}

func indent(out []byte, depth int) []byte {
	for range depth {
		out = append(out, ' ', ' ')
	}
	return out
}

// literal reports whether a text can stand as a literal block: several lines, nothing that YAML
// would fold, strip or refuse.
func literal(s string) bool {
	if !strings.Contains(s, "\n") || s[0] == ' ' || s[0] == '\n' || s[0] == '\t' || strings.HasSuffix(s, "\n\n") {
		return false
	}
	for _, r := range s {
		if r < ' ' && r != '\n' || r == 0x7f || r == 0xfffd || r > 0x7e && unprintable(r) {
			return false
		}
	}
	return true
}

func appendLiteral(out []byte, s string, depth int) []byte {
	out = append(out, " |"...)
	if !strings.HasSuffix(s, "\n") {
		out = append(out, '-')
	}
	out = append(out, '\n')
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		if line != "" {
			out = append(indent(out, depth), line...)
		}
		out = append(out, '\n')
	}
	return out
}

// appendScalarText appends a key or a string of one line.
func appendScalarText(out []byte, s string) []byte {
	if plain(s) {
		return append(out, s...)
	}
	return appendString(out, s)
}

// plain reports whether a string can stand without quotes in every YAML version: letters, digits
// and "-_./" with a letter first, and no word that means a truth value, nothing or a number.
func plain(s string) bool {
	if s == "" || len(s) > 200 || !letter(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letter(c) && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' && c != '/' {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf":
		return false
	}
	return true
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
