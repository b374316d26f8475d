package plans

import (
	"maps"
	"reflect"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/musterdr/muster/providers/fault"
)

// Validator is implemented by steps whose settings can be wrong in ways that their types don't tell.
type Validator interface {
	// Validate says what is wrong. It does no I/O, and shows no value that may be a secret.
	Validate() error
}

func validate(settings any) error {
	if validator, ok := settings.(Validator); ok {
		return validator.Validate()
	}
	return nil
}

// Decode fills a step's struct with settings that Expand returned, as strictly as a document is
// read. Errors are fault.Invalid with all Problems, which never show a value.
func Decode(settings map[string]any, into any) error {
	node, err := nodeOf(settings)
	if err != nil {
		return fault.New("read settings", fault.Internal, "", err)
	}
	var problems Problems
	newDecoder("", &problems).value(node, "with", reflect.ValueOf(into).Elem())
	if len(problems) > 0 {
		return fault.New("read settings", fault.Invalid, "", problems)
	}
	return validate(into)
}

// nodeOf makes the YAML of a value without a detour through text.
func nodeOf(value any) (*yaml.Node, error) {
	scalar := func(tag, text string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}, nil
	}
	switch v := value.(type) {
	case nil:
		return scalar("!!null", "null")
	case string:
		return scalar("!!str", v)
	case bool:
		return scalar("!!bool", strconv.FormatBool(v))
	case int64:
		return scalar("!!int", strconv.FormatInt(v, 10))
	case float64:
		return scalar("!!float", strconv.FormatFloat(v, 'g', -1, 64))
	case []any:
		list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, element := range v {
			node, err := nodeOf(element)
			if err != nil {
				return nil, err
			}
			list.Content = append(list.Content, node)
		}
		return list, nil
	case map[string]any:
		return mappingOf(v)
	default: // what a caller made itself
		node := &yaml.Node{}
		return node, node.Encode(value)
	}
}

func mappingOf(fields map[string]any) (*yaml.Node, error) {
	mapping := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, err := nodeOf(fields[name])
		if err != nil {
			return nil, err
		}
		mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, value)
	}
	return mapping, nil
}
