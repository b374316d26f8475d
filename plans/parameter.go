package plans

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
)

// Parameter declares one value that a run may be told with --set, or a person is asked for.
//
// A parameter never holds a secret: its value stands in the run's journal, in reports and in what
// `muster plan show` prints. Give the name of a file or of an environment variable instead.
type Parameter struct {
	Type        ParameterType `yaml:"type" json:"type"`
	Description string        `yaml:"description,omitempty" json:"description,omitempty"`
	// Default is the value when none is given. Without one, the parameter is required.
	Default any `yaml:"default,omitempty" json:"default,omitempty"`
	// Pattern is a regular expression (RE2) that the whole of a string has to match, and of each
	// element of a list.
	Pattern string `yaml:"pattern,omitempty" json:"pattern,omitempty"`
	// Enum lists the only strings, and elements of a list, that are allowed.
	Enum []string `yaml:"enum,omitempty" json:"enum,omitempty"`
	// Min and Max bound an int or a duration, both included.
	Min any `yaml:"min,omitempty" json:"min,omitempty"`
	Max any `yaml:"max,omitempty" json:"max,omitempty"`
}

// ParameterType is the type of a parameter's value.
type ParameterType string

// The types, with what their values are in Go, and in CEL.
const (
	ParameterString   ParameterType = "string"   // string; string
	ParameterInt      ParameterType = "int"      // int64; int
	ParameterBool     ParameterType = "bool"     // bool; bool
	ParameterDuration ParameterType = "duration" // Duration; duration
	ParameterList     ParameterType = "list"     // []string; list(string)
)

func parameterTypes() []string {
	return []string{string(ParameterString), string(ParameterInt), string(ParameterBool), string(ParameterDuration), string(ParameterList)}
}

// Required reports whether there is no default.
func (p Parameter) Required() bool { return p.Default == nil }

// Check tells what is wrong with a declaration, all of it; nil when it is sound.
func (p Parameter) Check() error {
	var problems []error
	for _, problem := range p.problems() {
		problems = append(problems, fmt.Errorf("%s: %s", problem.field, problem.text))
	}
	return errors.Join(problems...)
}

// Value reads a value of the parameter's type as documents hold it (string, int64, bool, []any) or
// as Parse returns it, and checks it. Errors never show the value.
func (p Parameter) Value(raw any) (any, error) {
	value, err := p.typed(raw)
	if err != nil {
		return nil, err
	}
	switch v := value.(type) {
	case string:
		err = p.allowed(v)
	case []string:
		for i := 0; i < len(v) && err == nil; i++ {
			err = p.allowed(v[i])
		}
	case int64:
		err = between(p, v)
	case Duration:
		err = between(p, v)
	}
	if err != nil {
		return nil, err
	}
	return value, nil
}

// Parse reads what a person wrote, as in --set name=text, and checks it. A list's elements are
// separated by commas; one whose elements hold commas is written as JSON: ["a,b", "c"].
func (p Parameter) Parse(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("want text in UTF-8")
	}
	switch p.Type {
	case ParameterInt:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, errWholeNumber
		}
		return p.Value(n)
	case ParameterBool:
		if text != "true" && text != "false" {
			return nil, errTruth
		}
		return p.Value(text == "true")
	case ParameterList:
		elements, err := parseList(text)
		if err != nil {
			return nil, err
		}
		return p.Value(elements)
	default:
		return p.Value(text)
	}
}

func parseList(text string) ([]string, error) {
	switch {
	case text == "":
		return []string{}, nil
	case !strings.HasPrefix(text, "["):
		return strings.Split(text, ","), nil
	}
	var elements []string
	if json.Unmarshal([]byte(text), &elements) != nil {
		return nil, errors.New(`want a list: a,b,c or ["a","b","c"]`)
	}
	return elements, nil
}

var (
	errWholeNumber = errors.New("want a whole number")
	errTruth       = errors.New("want true or false")
	errTexts       = errors.New("want a list of texts")
)

// typed turns what YAML, JSON or Parse gave into the value's Go type.
func (p Parameter) typed(raw any) (any, error) {
	switch v := raw.(type) {
	case string:
		if p.Type == ParameterDuration {
			return ParseDuration(v)
		}
		if p.Type == ParameterString {
			return v, nil
		}
	case int64:
		if p.Type == ParameterInt {
			return v, nil
		}
	case bool:
		if p.Type == ParameterBool {
			return v, nil
		}
	case Duration:
		if p.Type == ParameterDuration {
			return v, nil
		}
	case []string:
		if p.Type == ParameterList {
			return append([]string{}, v...), nil
		}
	case []any:
		if p.Type == ParameterList {
			return texts(v)
		}
	}
	return nil, p.wanted()
}

func texts(elements []any) ([]string, error) {
	out := make([]string, 0, len(elements))
	for _, element := range elements {
		text, ok := element.(string)
		if !ok {
			return nil, errTexts
		}
		out = append(out, text)
	}
	return out, nil
}

func (p Parameter) wanted() error {
	switch p.Type {
	case ParameterInt:
		return errWholeNumber
	case ParameterBool:
		return errTruth
	case ParameterDuration:
		return errDuration
	case ParameterList:
		return errTexts
	default:
		return errors.New("want text")
	}
}

func (p Parameter) allowed(text string) error {
	if len(p.Enum) > 0 && !slices.Contains(p.Enum, text) {
		return fmt.Errorf("want one of %s", strings.Join(p.Enum, ", "))
	}
	if p.Pattern == "" {
		return nil
	}
	pattern, err := regexp.Compile("^(?:" + p.Pattern + ")$")
	if err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	if !pattern.MatchString(text) {
		return fmt.Errorf("want text that matches %s as a whole", p.Pattern)
	}
	return nil
}

// between checks an int or a duration against Min and Max, which have its type in a sound parameter.
func between[T int64 | Duration](p Parameter, value T) error {
	if low, err := bound[T](p, p.Min); err != nil || low != nil && value < *low {
		return fmt.Errorf("want at least %v", p.Min)
	}
	if high, err := bound[T](p, p.Max); err != nil || high != nil && value > *high {
		return fmt.Errorf("want at most %v", p.Max)
	}
	return nil
}

func bound[T int64 | Duration](p Parameter, raw any) (*T, error) {
	if raw == nil {
		return nil, nil
	}
	value, err := p.typed(raw)
	if err != nil {
		return nil, err
	}
	found, ok := value.(T)
	if !ok {
		return nil, p.wanted()
	}
	return &found, nil
}

// goType is the type that YAML is decoded into.
func (p Parameter) goType() reflect.Type {
	switch p.Type {
	case ParameterInt:
		return reflect.TypeFor[int64]()
	case ParameterBool:
		return reflect.TypeFor[bool]()
	case ParameterDuration:
		return reflect.TypeFor[Duration]()
	case ParameterList:
		return reflect.TypeFor[[]string]()
	default:
		return reflect.TypeFor[string]()
	}
}

func (p Parameter) celType() *cel.Type {
	switch p.Type {
	case ParameterInt:
		return cel.IntType
	case ParameterBool:
		return cel.BoolType
	case ParameterDuration:
		return cel.DurationType
	case ParameterList:
		return cel.ListType(cel.StringType)
	default:
		return cel.StringType
	}
}

// forExpressions turns a value that Value returned into what CEL takes.
func forExpressions(value any) any {
	if d, ok := value.(Duration); ok {
		return time.Duration(d)
	}
	return value
}
