package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

// appendCanonical appends the canonical JSON of a value: see Digest.
func appendCanonical(out []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(out, "null"...)
	case bool:
		return strconv.AppendBool(out, v)
	case json.Number:
		return append(out, v...)
	case string:
		return appendString(out, v)
	case []any:
		out = append(out, '[')
		for i, entry := range v {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendCanonical(out, entry)
		}
		return append(out, ']')
	case map[string]any:
		return appendMap(out, v)
	case Object:
		return appendMap(out, v)
	}
	panic(fmt.Sprintf("cluster: a decoded JSON object holds a %T", value))
}

func appendMap(out []byte, m map[string]any) []byte {
	out = append(out, '{')
	for i, key := range sortedKeys(m) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendString(out, key), ':')
		out = appendCanonical(out, m[key])
	}
	return append(out, '}')
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// appendString appends a JSON string, which is a double-quoted YAML string too. Bytes that are not
// UTF-8 cannot come from a JSON decoder; they would turn into U+FFFD.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			out = appendEscape(append(out, s[start:i]...), rune(c))
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || unprintable(r) {
			out = appendEscape(append(out, s[start:i]...), r)
			start = i + size
		}
		i += size
	}
	return append(append(out, s[start:]...), '"')
}

// unprintable reports the runes that YAML does not take as they are, or takes for line breaks.
func unprintable(r rune) bool {
	return r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffe || r == 0xffff
}

func appendEscape(out []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(out, '\\', byte(r))
	case '\n':
		return append(out, '\\', 'n')
	case '\r':
		return append(out, '\\', 'r')
	case '\t':
		return append(out, '\\', 't')
	}
	const hex = "0123456789abcdef"
	return append(out, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
