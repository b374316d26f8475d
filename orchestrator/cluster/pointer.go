package cluster

import (
	"strconv"
	"strings"
)

// A pointer is a JSON Pointer (RFC 6901) into an object; the segment "*" stands for every entry of a
// list or a map.

// removePointer deletes what a pointer names, and the maps that are empty without it. The object
// must be the caller's own.
func removePointer(o Object, pointer string) {
	removeSegments(map[string]any(o), segments(pointer))
}

func segments(pointer string) []string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
	}
	return parts
}

func removeSegments(value any, path []string) {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range matching(v, path[0]) {
			removeKey(v, key, path[1:])
		}
	case []any:
		for i, entry := range v {
			if (path[0] == "*" || path[0] == strconv.Itoa(i)) && len(path) > 1 {
				removeSegments(entry, path[1:])
			}
		}
	}
}

func matching(m map[string]any, segment string) []string {
	if segment == "*" {
		return sortedKeys(m)
	}
	var keys []string
	for key := range m {
		if key == segment || strings.HasSuffix(segment, "*") && strings.HasPrefix(key, strings.TrimSuffix(segment, "*")) {
			keys = append(keys, key)
		}
	}
	return keys
}

func removeKey(m map[string]any, key string, rest []string) {
	if len(rest) == 0 {
		delete(m, key)
		return
	}
	removeSegments(m[key], rest)
	if inner, ok := m[key].(map[string]any); ok && len(inner) == 0 {
		delete(m, key)
	}
}

// differingFields lists the pointers of the fields in which two values differ, at most limit of
// them. It names fields and never a value.
func differingFields(a, b Object, limit int) []string {
	d := &difference{limit: limit}
	d.values("", map[string]any(a), map[string]any(b))
	return d.found
}

type difference struct {
	found []string
	limit int
}

func (d *difference) add(pointer string) {
	if len(d.found) < d.limit {
		d.found = append(d.found, pointer)
	}
}

func (d *difference) values(pointer string, a, b any) {
	if len(d.found) >= d.limit {
		return
	}
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			d.maps(pointer, x, y)
			return
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			for i := range x {
				d.values(pointer+"/"+strconv.Itoa(i), x[i], y[i])
			}
			return
		}
	}
	if string(appendCanonical(nil, a)) != string(appendCanonical(nil, b)) {
		d.add(pointer)
	}
}

func (d *difference) maps(pointer string, a, b map[string]any) {
	both := make(map[string]any, len(a))
	for key := range a {
		both[key] = nil
	}
	for key := range b {
		both[key] = nil
	}
	for _, key := range sortedKeys(both) {
		x, inA := a[key]
		y, inB := b[key]
		path := pointer + "/" + strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
		if inA != inB {
			d.add(path)
			continue
		}
		d.values(path, x, y)
	}
}

// contains reports whether a value has all that another one has: fields of maps may be more, lists may not.
func contains(whole, part any) bool {
	switch p := part.(type) {
	case map[string]any:
		w, ok := whole.(map[string]any)
		for key, value := range p {
			inner, found := w[key]
			ok = ok && found && contains(inner, value)
		}
		return ok
	case []any:
		w, ok := whole.([]any)
		ok = ok && len(w) == len(p)
		for i := 0; ok && i < len(p); i++ {
			ok = contains(w[i], p[i])
		}
		return ok
	}
	return string(appendCanonical(nil, whole)) == string(appendCanonical(nil, part))
}
