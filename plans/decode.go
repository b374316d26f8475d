package plans

import (
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The limits of one file, aliases expanded. A few bytes of aliases of aliases would fill the memory
// otherwise.
const (
	maxValues = 200_000
	maxDepth  = 64
)

// decoder fills Go values from YAML nodes as yaml.v3 would, but strictly, and it goes on after a
// problem so that all are found. Messages never show values, since a misplaced one may be a secret.
type decoder struct {
	file     string
	problems *Problems
	left     int // values that may still be read
	depth    int
	// dynamic is asked about every text that may hold expressions, and checks them against the type
	// of the field. A text that it reports true for is not decoded: its value is known when the step
	// runs. nil where there are no expressions.
	dynamic func(node *yaml.Node, name string, field reflect.Type) bool
}

func newDecoder(file string, problems *Problems) *decoder {
	return &decoder{file: file, problems: problems, left: maxValues}
}

func (d *decoder) problem(node *yaml.Node, format string, args ...any) {
	d.problems.add(Position{d.file, node.Line, node.Column}, format, args...)
}

// enter counts a value and reports whether it may be read.
func (d *decoder) enter(node *yaml.Node) bool {
	if d.left < 0 {
		return false
	}
	d.left--
	if d.left < 0 {
		d.problem(node, "the file holds more than %d values once its aliases are expanded", maxValues)
		return false
	}
	if d.depth >= maxDepth {
		d.problem(node, "values are nested more than %d deep, or an anchor holds itself", maxDepth)
		d.left = -1
		return false
	}
	return true
}

// value fills out from node. name is the field's, for messages. A null leaves out as it is.
func (d *decoder) value(node *yaml.Node, name string, out reflect.Value) {
	if !d.enter(node) {
		return
	}
	d.depth++
	defer func() { d.depth-- }()
	switch {
	case node.Kind == yaml.AliasNode:
		d.value(node.Alias, name, out)
	case isNull(node):
	case d.dynamic != nil && isTemplate(node):
		if !d.dynamic(node, name, out.Type()) {
			literal := *node
			literal.Value = unescape(node.Value)
			d.decode(&literal, name, out)
		}
	default:
		d.decode(node, name, out)
	}
}

func (d *decoder) decode(node *yaml.Node, name string, out reflect.Value) {
	if !out.CanAddr() || !d.custom(node, name, out.Addr()) {
		d.plain(node, name, out)
	}
}

// isTemplate reports whether a node is a text in which ${ has a meaning.
func isTemplate(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!str" && mentions(node.Value)
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

// custom decodes types that read their own YAML.
func (d *decoder) custom(node *yaml.Node, name string, out reflect.Value) bool {
	unmarshaler, ok := out.Interface().(yaml.Unmarshaler)
	if !ok {
		return false
	}
	if err := unmarshaler.UnmarshalYAML(node); err != nil {
		d.problem(node, "%s: %v", name, err)
	}
	return true
}

func (d *decoder) plain(node *yaml.Node, name string, out reflect.Value) {
	switch out.Kind() {
	case reflect.Pointer:
		if out.IsNil() {
			out.Set(reflect.New(out.Type().Elem()))
		}
		d.value(node, name, out.Elem())
	case reflect.Interface:
		if free := d.free(node, name); free != nil {
			out.Set(reflect.ValueOf(free))
		}
	case reflect.Struct:
		if d.want(node, yaml.MappingNode, name, "a mapping") {
			d.object(node, out)
		}
	case reflect.Map:
		if d.want(node, yaml.MappingNode, name, "a mapping") {
			d.mapping(node, out)
		}
	case reflect.Slice:
		if d.want(node, yaml.SequenceNode, name, "a list") {
			d.list(node, name, out)
		}
	default:
		d.scalar(node, name, out)
	}
}

func (d *decoder) want(node *yaml.Node, kind yaml.Kind, name, what string) bool {
	if node.Kind == kind {
		return true
	}
	d.problem(node, "%s: want %s, found %s", name, what, describe(node))
	return false
}

// describe names what a node is without showing it.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!str", "!!timestamp":
		return "text"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "nothing"
	default:
		return "a value with a tag of its own"
	}
}

// entries calls each for every field of a mapping, duplicates reported and left out.
func (d *decoder) entries(node *yaml.Node, each func(key, value *yaml.Node)) {
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.problem(key, "want a field's name, found %s", describe(key))
			continue
		}
		if key.ShortTag() == "!!merge" {
			d.problem(key, "merge keys (<<) are not read; write the fields out")
			continue
		}
		if earlier := seen[key.Value]; earlier != nil {
			d.problem(key, "field %q stands at line %d already", key.Value, earlier.Line)
			continue
		}
		seen[key.Value] = key
		if d.dynamic != nil && isTemplate(key) {
			d.problem(key, "expressions are for values; a field's name can't hold one")
			continue
		}
		each(key, value)
	}
}

func (d *decoder) object(node *yaml.Node, out reflect.Value) {
	fields := map[string]reflect.Value{}
	collectFields(out, fields)
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	d.entries(node, func(key, value *yaml.Node) {
		field, known := fields[key.Value]
		if !known {
			d.problem(key, "unknown field %q%s", key.Value, suggest(key.Value, names))
			return
		}
		d.value(value, key.Value, field)
	})
}

// collectFields finds the fields of a struct by the names that yaml.v3 gives them.
func collectFields(out reflect.Value, into map[string]reflect.Value) {
	for i := range out.NumField() {
		field := out.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case name == "-":
		case slices.Contains(strings.Split(options, ","), "inline") && field.Type.Kind() == reflect.Struct:
			collectFields(out.Field(i), into)
		case name == "":
			into[strings.ToLower(field.Name)] = out.Field(i)
		default:
			into[name] = out.Field(i)
		}
	}
}

func (d *decoder) mapping(node *yaml.Node, out reflect.Value) {
	filled := reflect.MakeMap(out.Type())
	d.entries(node, func(key, value *yaml.Node) {
		element := reflect.New(out.Type().Elem()).Elem()
		d.value(value, key.Value, element)
		filled.SetMapIndex(reflect.ValueOf(key.Value).Convert(out.Type().Key()), element)
	})
	out.Set(filled)
}

func (d *decoder) list(node *yaml.Node, name string, out reflect.Value) {
	filled := reflect.MakeSlice(out.Type(), len(node.Content), len(node.Content))
	for i, element := range node.Content {
		d.value(element, name+"["+strconv.Itoa(i)+"]", filled.Index(i))
	}
	out.Set(filled)
}

// free reads a value whose type no struct tells. What it returns survives JSON unchanged: text,
// bool, int64, float64, []any, map[string]any.
func (d *decoder) free(node *yaml.Node, name string) any {
	switch node.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		d.mapping(node, reflect.ValueOf(&out).Elem())
		return out
	case yaml.SequenceNode:
		out := []any{}
		d.list(node, name, reflect.ValueOf(&out).Elem())
		return out
	}
	var out reflect.Value
	switch node.ShortTag() {
	case "!!bool":
		out = reflect.ValueOf(new(bool)).Elem()
	case "!!int":
		out = reflect.ValueOf(new(int64)).Elem()
	case "!!float":
		out = reflect.ValueOf(new(float64)).Elem()
	default:
		out = reflect.ValueOf(new(string)).Elem()
	}
	d.scalar(node, name, out)
	return out.Interface()
}

func (d *decoder) scalar(node *yaml.Node, name string, out reflect.Value) {
	if node.Kind != yaml.ScalarNode {
		d.problem(node, "%s: want %s, found %s", name, kindName(out.Kind()), describe(node))
		return
	}
	tag := node.ShortTag()
	switch {
	case out.Kind() == reflect.String && (tag == "!!str" || tag == "!!timestamp"):
		out.SetString(node.Value)
	case out.Kind() == reflect.String:
		d.problem(node, "%s: want text, found %s; put it in quotes", name, describe(node))
	case out.Kind() == reflect.Bool && tag == "!!bool", out.CanFloat() && (tag == "!!float" || tag == "!!int"),
		(out.CanInt() || out.CanUint()) && tag == "!!int":
		d.number(node, name, out)
	default:
		d.problem(node, "%s: want %s, found %s", name, kindName(out.Kind()), describe(node))
	}
}

// number reads numbers and truth values, whose YAML forms the library knows.
func (d *decoder) number(node *yaml.Node, name string, out reflect.Value) {
	if node.Decode(out.Addr().Interface()) != nil {
		d.problem(node, "%s: the number does not fit", name)
		return
	}
	if out.CanFloat() && (math.IsNaN(out.Float()) || math.IsInf(out.Float(), 0)) {
		d.problem(node, "%s: want a finite number", name)
	}
}

func kindName(kind reflect.Kind) string {
	switch kind {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a whole number"
	}
}
