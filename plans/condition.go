package plans

import (
	"context"
	"encoding/json"

	"github.com/google/cel-go/cel"

	"github.com/musterdr/muster/providers/fault"
)

// Condition is a CEL expression that gives true or false over values which steps name, such as the
// objects that they wait for. Its language and its limits are those of the expressions of plans.
type Condition struct {
	text      string
	variables []string
	program   cel.Program
}

// NewCondition compiles a condition over the named variables, each of any type. Errors are
// fault.Invalid: the text is no expression, speaks of other names, or gives something else.
func NewCondition(text string, variables ...string) (*Condition, error) {
	types := map[string]*cel.Type{}
	for _, name := range variables {
		types[name] = cel.DynType
	}
	env, err := environmentOf(types)
	if err != nil {
		return nil, err
	}
	compiled, problems := env.compileTo(text, cel.BoolType)
	if len(problems) > 0 {
		return nil, fault.Newf("read condition", fault.Invalid, text, "%s", problems[0].text)
	}
	program, err := compiled.program()
	if err != nil {
		return nil, fault.New("read condition", fault.Invalid, text, err)
	}
	return &Condition{text, variables, program}, nil
}

// Holds evaluates the condition. Values are decoded JSON, with json.Number or without; a variable
// that has none is null. Errors are fault.Invalid, as for EvalWhen: something that the condition
// reads may not be there yet.
func (c *Condition) Holds(ctx context.Context, values map[string]any) (bool, error) {
	const op = "evaluate condition"
	variables := map[string]any{}
	for _, name := range c.variables {
		variables[name] = plainNumbers(values[name])
	}
	value, _, err := c.program.ContextEval(ctx, variables)
	if err != nil {
		return false, fault.New(op, fault.Invalid, c.text, err)
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, fault.Newf(op, fault.Invalid, c.text, "want true or false, got %s", value.Type().TypeName())
	}
	return holds, nil
}

// plainNumbers copies decoded JSON with int64 or float64 for every json.Number: CEL knows these.
func plainNumbers(value any) any {
	switch v := value.(type) {
	case json.Number:
		if whole, err := v.Int64(); err == nil {
			return whole
		}
		number, _ := v.Float64() // a JSON number beyond float64 is infinite
		return number
	case []any:
		out := make([]any, len(v))
		for i, element := range v {
			out[i] = plainNumbers(element)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, element := range v {
			out[key] = plainNumbers(element)
		}
		return out
	default:
		return value
	}
}
