package corpus

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

const (
	anyValue = "$(any)"
	noValue  = "$(absent)"
	notValue = "$(not:" // and a text and ")"
	longest  = 120      // of a value in a problem
)

// differ lists where what is there is not what is wanted, by JSON pointer.
func differ(pointer string, want, have any) []string {
	switch {
	case want == anyValue && !empty(have), want == noValue && have == nil:
		return nil
	case want == anyValue, want == noValue:
		return wrong(pointer, want, have)
	}
	switch w := want.(type) {
	case string:
		if other, found := strings.CutPrefix(w, notValue); found {
			return differFrom(pointer, strings.TrimSuffix(other, ")"), want, have)
		}
	case map[string]any:
		if list, found := w["contains"].([]any); found && len(w) == 1 {
			return contains(pointer, list, have)
		}
		return differMaps(pointer, w, have)
	case []any:
		return differLists(pointer, w, have)
	}
	if !reflect.DeepEqual(want, have) {
		return wrong(pointer, want, have)
	}
	return nil
}

// differFrom wants a value whose text is not the given one.
func differFrom(pointer, other string, want, have any) []string {
	if empty(have) || fmt.Sprint(have) == other {
		return wrong(pointer, want, have)
	}
	return nil
}

func differMaps(pointer string, want map[string]any, have any) []string {
	there, ok := have.(map[string]any)
	if !ok && (have != nil || len(want) == 0) {
		return wrong(pointer, want, have)
	}
	var problems []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		problems = append(problems, differ(pointer+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(key), want[key], there[key])...)
	}
	return problems
}

func differLists(pointer string, want []any, have any) []string {
	there, _ := have.([]any)
	if len(there) != len(want) {
		return wrong(pointer, want, have)
	}
	var problems []string
	for i := range want {
		problems = append(problems, differ(fmt.Sprintf("%s/%d", pointer, i), want[i], there[i])...)
	}
	return problems
}

func contains(pointer string, want []any, have any) []string {
	there, _ := have.([]any)
	var problems []string
	for _, element := range want {
		if !slices.ContainsFunc(there, func(entry any) bool { return len(differ("", element, entry)) == 0 }) {
			problems = append(problems, fmt.Sprintf("%s is %s, which lacks %s", pointer, short(have), short(element)))
		}
	}
	return problems
}

func wrong(pointer string, want, have any) []string {
	return []string{fmt.Sprintf("%s is %s, want %s", pointer, short(have), short(want))}
}

// empty reports what an API object could as well leave out.
func empty(value any) bool {
	if value == nil {
		return true
	}
	v := reflect.ValueOf(value)
	return (v.Kind() == reflect.Map || v.Kind() == reflect.Slice || v.Kind() == reflect.String) && v.Len() == 0
}

func short(value any) string {
	if value == nil {
		return "absent"
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	if len(text) > longest {
		return fmt.Sprintf("%s… (%d bytes)", text[:longest], len(text))
	}
	return string(text)
}
