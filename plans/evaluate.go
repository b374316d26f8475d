package plans

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"

	"github.com/musterdr/muster/providers/fault"
)

// Wanted evaluates a step's condition, and before it those of the include-plan steps that it comes
// from. Errors are fault.Invalid: an expression is wrong, gives no truth value, reads what is not
// there, or costs too much.
func (c *Checked) Wanted(step Step, facts Facts) (bool, error) {
	const op = "evaluate when"
	e := c.evaluation(facts)
	own := scopeOf(step.ID)
	for _, id := range scopes(own)[1:] {
		outer := scopeOf(id)
		if wanted, err := e.condition(outer, c.Scopes[id].When); err != nil || !wanted {
			return false, invalid(op, step.ID, err)
		}
	}
	wanted, err := e.condition(own, step.When)
	return wanted && err == nil, invalid(op, step.ID, err)
}

func invalid(op, step string, err error) error {
	if err == nil {
		return nil
	}
	return fault.New(op, fault.Invalid, step, err)
}

// Items gives the items of a step's forEach: a list of texts as it stands, or the result of a CEL
// expression, in its order. Empty and repeated items are refused, since an item names its task.
// Errors are as for Wanted.
func (c *Checked) Items(step Step, facts Facts) ([]string, error) {
	const op = "evaluate forEach"
	text, isExpression := step.ForEach.(string)
	if !isExpression {
		items, problem := literalItems(step.ForEach)
		if problem != "" {
			return nil, fault.Newf(op, fault.Invalid, step.ID, "%s", problem)
		}
		return items, nil
	}
	scope := scopeOf(step.ID)
	value, err := c.evaluation(facts).evaluate(scope, text)
	if err != nil {
		return nil, invalid(op, step.ID, err)
	}
	list, _ := value.([]any)
	items, err := texts(list)
	if err != nil || list == nil {
		return nil, fault.Newf(op, fault.Invalid, step.ID, "%s: want a list of texts, got %T", text, value)
	}
	if problem := itemProblem(items); problem != "" {
		return nil, fault.Newf(op, fault.Invalid, step.ID, "%s: %s", text, problem)
	}
	return items, nil
}

// Expand gives a step's settings for one of its items ("" in a step without) as Decode takes them:
// a copy of `with` in which every expression, however deep, is replaced by its value. A text that is
// one single expression has the value's type; inside a longer text there is the value as text. It
// does no I/O. Errors are as for Wanted.
func (c *Checked) Expand(step Step, item string, facts Facts) (map[string]any, error) {
	if step.With == nil {
		return nil, nil
	}
	scope := scopeOf(step.ID)
	e := c.evaluation(facts)
	e.item = item
	value, err := e.expand(scope, "", step.With)
	if err != nil {
		return nil, invalid("evaluate with", step.ID, err)
	}
	settings, _ := value.(map[string]any)
	return settings, nil
}

// evaluation evaluates expressions of one task, all with the same facts.
type evaluation struct {
	checked *Checked
	facts   Facts
	item    string
	known   map[string]any // variables that are the same in every scope
	values  map[string]any // of parameters that are expressions, by their joined IDs

	scopes, receipts map[string]map[string]any // variables and receipts, by scope
}

func (c *Checked) evaluation(facts Facts) *evaluation {
	return &evaluation{
		checked: c, facts: facts, values: map[string]any{},
		scopes: map[string]map[string]any{}, receipts: map[string]map[string]any{},
	}
}

// variables are what the expressions of a scope see.
func (e *evaluation) variables(scope string) map[string]any {
	if made := e.scopes[scope]; made != nil {
		return made
	}
	if e.known == nil {
		e.known = e.facts.variables()
	}
	made := maps.Clone(e.known)
	made["params"] = &scopeParameters{e, scope}
	made["receipts"] = func() any { return e.receiptsIn(scope) }
	made["item"] = e.item
	e.scopes[scope] = made
	return made
}

// receiptsIn are the receipts of a scope's own steps, by the IDs that they have there.
func (e *evaluation) receiptsIn(scope string) map[string]any {
	if own := e.receipts[scope]; own != nil {
		return own
	}
	own := map[string]any{}
	if scope != "" {
		for id, receipt := range e.receiptsIn("") {
			if short, inside := strings.CutPrefix(id, scope+"."); inside {
				own[short] = receipt
			}
		}
	} else if e.facts.Receipts != nil {
		maps.Copy(own, e.facts.Receipts())
	}
	e.receipts[scope] = own
	return own
}

func (e *evaluation) evaluate(scope, text string) (any, error) {
	compiled, err := e.checked.programs.compile(scope, text, e.checked.Scopes[scope].Parameters)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.TrimSpace(text), err)
	}
	value, err := run(compiled.program, e.variables(scope))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.TrimSpace(text), err)
	}
	return value, nil
}

// condition evaluates a `when`; an empty one holds.
func (e *evaluation) condition(scope, text string) (bool, error) {
	if text == "" {
		return true, nil
	}
	value, err := e.evaluate(scope, text)
	if err != nil {
		return false, err
	}
	wanted, ok := value.(bool)
	if !ok {
		return false, fmt.Errorf("%s: want true or false, got %T", text, value)
	}
	return wanted, nil
}

// expand copies a value with its expressions evaluated. name is the field's, for messages.
func (e *evaluation) expand(scope, name string, value any) (any, error) {
	switch v := value.(type) {
	case string:
		expanded, err := e.text(scope, v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return expanded, nil
	case []any:
		out := make([]any, 0, len(v))
		for i, element := range v {
			expanded, err := e.expand(scope, name+"["+strconv.Itoa(i)+"]", element)
			if err != nil {
				return nil, err
			}
			out = append(out, expanded)
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, element := range v {
			expanded, err := e.expand(scope, strings.TrimPrefix(name+"."+key, "."), element)
			if err != nil {
				return nil, err
			}
			out[key] = expanded
		}
		return out, nil
	default:
		return value, nil
	}
}

func (e *evaluation) text(scope, text string) (any, error) {
	if !mentions(text) {
		return text, nil
	}
	cut, problem := parseTemplate(text)
	if problem != nil {
		return nil, errors.New(problem.text)
	}
	if cut.single() {
		return e.piece(scope, cut[0].text)
	}
	var out strings.Builder
	for _, piece := range cut {
		if !piece.expression {
			out.WriteString(piece.text)
			continue
		}
		value, err := e.piece(scope, piece.text)
		if err != nil {
			return nil, err
		}
		inside, err := inText(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.TrimSpace(piece.text), err)
		}
		out.WriteString(inside)
	}
	return out.String(), nil
}

// piece evaluates one expression of a text. The item's name alone is what most plans have, and needs
// no CEL.
func (e *evaluation) piece(scope, text string) (any, error) {
	if strings.TrimSpace(text) == "item" {
		return e.item, nil
	}
	return e.evaluate(scope, text)
}

// scopeParameters is the variable params of a scope.
type scopeParameters struct {
	evaluation *evaluation
	scope      string
}

// get implements parameterReader. A value that is an expression is evaluated when it is first read:
// what it needs may not be there when nobody reads it.
func (p *scopeParameters) get(name string) (any, error) {
	e, scope := p.evaluation, p.evaluation.checked.Scopes[p.scope]
	if value, known := scope.Values[name]; known {
		return forExpressions(value), nil
	}
	raw, known := scope.Expressions[name]
	if !known {
		return nil, fmt.Errorf("parameter %q of plan %s has no value", name, scope.Plan)
	}
	if value, known := e.values[joinID(p.scope, name)]; known {
		return value, nil
	}
	outer := scopeOf(p.scope)
	expanded, err := e.expand(outer, name, raw)
	if err != nil {
		return nil, err
	}
	value, err := scope.Parameters[name].Value(expanded)
	if err != nil {
		return nil, fmt.Errorf("parameter %q of plan %s: %w", name, scope.Plan, err)
	}
	e.values[joinID(p.scope, name)] = forExpressions(value)
	return forExpressions(value), nil
}

// programs keeps what was compiled, since a step may have ten thousand items.
type programs struct {
	mu           sync.Mutex
	environments map[string]*environment // by scope
	compiled     map[[2]string]*compiled // by scope and text
}

type compiled struct {
	*expression
	program cel.Program
}

func (p *programs) compile(scope, text string, parameters map[string]Parameter) (*compiled, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := [2]string{scope, text}
	if found := p.compiled[key]; found != nil {
		return found, nil
	}
	if p.environments == nil {
		p.environments, p.compiled = map[string]*environment{}, map[[2]string]*compiled{}
	}
	env := p.environments[scope]
	if env == nil {
		var err error
		if env, err = newEnvironment(parameters, true); err != nil {
			return nil, err
		}
		p.environments[scope] = env
	}
	checked, problems := env.compile(text)
	if len(problems) > 0 {
		return nil, errors.New(problems[0].text)
	}
	program, err := checked.program()
	if err != nil {
		return nil, err
	}
	p.compiled[key] = &compiled{checked, program}
	return p.compiled[key], nil
}
