package plans

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/musterdr/muster/providers/fault"
)

// formula is a CEL expression over values which steps name. Its language and its limits are those of
// the expressions of plans.
type formula struct {
	text      string
	variables []string
	program   cel.Program
}

func newFormula(op, text string, want *cel.Type, variables []string) (formula, error) {
	dynamic := map[string]*cel.Type{}
	for _, name := range variables {
		dynamic[name] = cel.DynType
	}
	env, err := environmentOf(dynamic)
	if err != nil {
		return formula{}, err
	}
	compiled, problems := env.compileTo(text, want)
	if len(problems) > 0 {
		return formula{}, fault.Newf(op, fault.Invalid, text, "%s", problems[0].text)
	}
	program, err := compiled.program()
	if err != nil {
		return formula{}, fault.New(op, fault.Invalid, text, err)
	}
	return formula{text, variables, program}, nil
}

// evaluate gives the formula's value. Values are decoded JSON, with json.Number or without; a variable
// that has none is null.
func (f *formula) evaluate(ctx context.Context, op string, values map[string]any) (ref.Val, error) {
	variables := map[string]any{}
	for _, name := range f.variables {
		variables[name] = plainNumbers(values[name])
	}
	value, _, err := f.program.ContextEval(ctx, variables)
	if err != nil {
		return nil, fault.New(op, fault.Invalid, f.text, err)
	}
	return value, nil
}

// Condition is a CEL expression that gives true or false over values which steps name, such as the
// objects that they wait for.
type Condition struct{ formula }

// NewCondition compiles a condition over the named variables, each of any type. Errors are
// fault.Invalid: the text is no expression, speaks of other names, or gives something else.
func NewCondition(text string, variables ...string) (*Condition, error) {
	f, err := newFormula("read condition", text, cel.BoolType, variables)
	if err != nil {
		return nil, err
	}
	return &Condition{f}, nil
}

// Holds evaluates the condition. Errors are fault.Invalid, as for EvalWhen: something that the
// condition reads may not be there yet.
func (c *Condition) Holds(ctx context.Context, values map[string]any) (bool, error) {
	const op = "evaluate condition"
	value, err := c.evaluate(ctx, op, values)
	if err != nil {
		return false, err
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, fault.Newf(op, fault.Invalid, c.text, "want true or false, got %s", value.Type().TypeName())
	}
	return holds, nil
}

// Change is a CEL expression that gives a map: the fields of a patch.
type Change struct{ formula }

// NewChange compiles a change; see NewCondition.
func NewChange(text string, variables ...string) (*Change, error) {
	f, err := newFormula("read change", text, cel.MapType(cel.StringType, cel.DynType), variables)
	if err != nil {
		return nil, err
	}
	return &Change{f}, nil
}

// Fields evaluates the change. Whole numbers are int64 and others float64. Errors are fault.Invalid.
func (c *Change) Fields(ctx context.Context, values map[string]any) (map[string]any, error) {
	const op = "evaluate change"
	value, err := c.evaluate(ctx, op, values)
	if err != nil {
		return nil, err
	}
	fields, err := jsonOf(value)
	if err != nil {
		return nil, fault.New(op, fault.Invalid, c.text, err)
	}
	m, ok := fields.(map[string]any)
	if !ok {
		return nil, fault.Newf(op, fault.Invalid, c.text, "want a map of fields, got %s", value.Type().TypeName())
	}
	return m, nil
}

// jsonOf turns CEL's value into decoded JSON.
func jsonOf(value ref.Val) (any, error) {
	switch v := value.(type) {
	case traits.Mapper:
		out := map[string]any{}
		for i := v.Iterator(); i.HasNext() == types.True; {
			key := i.Next()
			name, ok := key.Value().(string)
			if !ok {
				return nil, fmt.Errorf("a field's name is a text, not %v", key.Value())
			}
			inner, err := jsonOf(v.Get(key))
			if err != nil {
				return nil, err
			}
			out[name] = inner
		}
		return out, nil
	case traits.Lister:
		out := []any{}
		for i := v.Iterator(); i.HasNext() == types.True; {
			inner, err := jsonOf(i.Next())
			if err != nil {
				return nil, err
			}
			out = append(out, inner)
		}
		return out, nil
	case types.Null:
		return nil, nil
	case types.Bool, types.Int, types.Uint, types.Double, types.String:
		return v.Value(), nil
	}
	return nil, fmt.Errorf("JSON has no %s", value.Type().TypeName())
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
