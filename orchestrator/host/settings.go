package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/musterdr/muster/providers/fault"
)

// maxProblems bounds how much an error tells.
const maxProblems = 10

// checkSettings holds settings against a provider's schema, and returns them as JSON. The error names what is
// wrong by its path and never shows a value, which may be a secret in the wrong place.
func checkSettings(provider, storage string, schema json.RawMessage, settings map[string]any) (json.RawMessage, error) {
	const op = "check storage settings"
	if settings == nil {
		settings = map[string]any{}
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, fault.New(op, fault.Invalid, storage, err)
	}
	if len(schema) == 0 {
		return raw, nil
	}
	compiled, err := compile(schema)
	if err != nil {
		return nil, fault.Newf(op, fault.Corrupt, provider, "the provider's schema is no JSON Schema: %w", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, fault.New(op, fault.Invalid, storage, err)
	}
	err = compiled.Validate(value)
	var invalid *jsonschema.ValidationError
	switch {
	case err == nil:
		return raw, nil
	case !errors.As(err, &invalid):
		return nil, fault.Newf(op, fault.Invalid, storage, "the settings do not fit the provider's schema: muster provider info %s", provider)
	}
	problems := problemsOf(invalid)
	slices.Sort(problems)
	problems = slices.Compact(problems)
	if len(problems) > maxProblems {
		problems = append(problems[:maxProblems], "and more")
	}
	return nil, fault.Newf(op, fault.Invalid, storage, "%s; what is allowed: muster provider info %s", strings.Join(problems, "; "), provider)
}

// noLoader keeps a schema from reading files or the network.
type noLoader struct{}

func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a schema must not refer to other documents")
}

func compile(schema json.RawMessage) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	const place = "settings.json"
	if err := compiler.AddResource(place, document); err != nil {
		return nil, err
	}
	return compiler.Compile(place)
}

// problemsOf are the innermost problems: those of parts, where there are any.
func problemsOf(e *jsonschema.ValidationError) []string {
	if len(e.Causes) == 0 {
		return []string{describe(e)}
	}
	var all []string
	for _, cause := range e.Causes {
		all = append(all, problemsOf(cause)...)
	}
	return all
}

func describe(e *jsonschema.ValidationError) string {
	path := "settings"
	for _, part := range e.InstanceLocation {
		path += "." + part
	}
	return path + " " + problem(e.ErrorKind)
}

func problem(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Required:
		return "lacks " + strings.Join(k.Missing, ", ")
	case *kind.AdditionalProperties:
		return "has unknown fields: " + strings.Join(k.Properties, ", ")
	case *kind.Type:
		return fmt.Sprintf("is of type %s, want %s", k.Got, strings.Join(k.Want, " or "))
	case *kind.Enum:
		return fmt.Sprintf("is not one of %v", k.Want)
	case *kind.Pattern:
		return "does not match " + k.Want
	case *kind.Format:
		return "is no " + k.Want
	case *kind.MinLength:
		return fmt.Sprintf("is shorter than %d", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("is longer than %d", k.Want)
	case *kind.Minimum:
		return "is below " + k.Want.RatString()
	case *kind.Maximum:
		return "is above " + k.Want.RatString()
	}
	if keywords := k.KeywordPath(); len(keywords) > 0 {
		return "breaks the rule " + strings.Join(keywords, "/")
	}
	return "is not allowed"
}
