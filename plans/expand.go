package plans

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// Setting is the value of a parameter as a person wrote it: --set name=text.
type Setting struct{ Name, Text string }

// ParseSetting reads name=text.
func ParseSetting(text string) (Setting, error) {
	name, value, found := strings.Cut(text, "=")
	if !found || name == "" {
		return Setting{}, fault.Newf("read setting", fault.Invalid, "", "want name=value")
	}
	return Setting{name, value}, nil
}

// values are those of the plan's own parameters. What is wrong is said where it is declared.
func (c *checker) values(settings []Setting, whole bool) map[string]any {
	values := map[string]any{}
	for _, setting := range settings {
		parameter, known := c.plan.Spec.Parameters[setting.Name]
		if !known {
			c.problem([]any{"spec", "parameters"}, "--set %s: there is no parameter %q in plan %s%s",
				setting.Name, setting.Name, c.plan.Metadata.Name, c.known(setting.Name))
			continue
		}
		if _, twice := values[setting.Name]; twice {
			c.problems.add(c.declared(setting.Name), "--set %s: it is given twice", setting.Name)
		}
		value, err := parameter.Parse(setting.Text)
		if err != nil {
			c.problems.add(c.declared(setting.Name), "--set %s: %v", setting.Name, err)
		}
		values[setting.Name] = value
	}
	for _, name := range names(c.plan.Spec.Parameters) {
		parameter := c.plan.Spec.Parameters[name]
		if _, given := values[name]; given {
			continue
		}
		if !parameter.Required() {
			values[name], _ = parameter.Value(parameter.Default) // what is wrong with it is reported
		} else if whole {
			c.problems.add(c.declared(name), "parameter %q has no default: give it a value with --set %s=…", name, name)
		}
	}
	return values
}

// known ends a message about an unknown parameter.
func (c *checker) known(name string) string {
	declared := names(c.plan.Spec.Parameters)
	if near := nearest(name, declared); near != "" {
		return fmt.Sprintf("; did you mean %q%s?", near, c.declaredAt(", declared at ", near))
	}
	if len(declared) == 0 {
		return ": it declares none"
	}
	return suggest(name, declared)
}

// expandInto completes a checked plan: its steps with includes expanded, its graph, its scopes.
func (c *checker) expandInto(checked *Checked, values map[string]any) error {
	checked.Plan = c.plan
	if len(c.plan.Spec.Parameters) > 0 {
		checked.Scopes = map[string]Scope{"": {Plan: c.plan.Metadata.Name, Parameters: c.plan.Spec.Parameters, Values: values}}
	}
	if len(c.includes) > 0 {
		whole := *c.plan
		whole.Spec.Steps = nil
		checked.Plan = &whole
		if checked.Scopes == nil {
			checked.Scopes = map[string]Scope{}
		}
		c.expand(checked, "", nil)
	}
	for _, step := range checked.Plan.Spec.Steps {
		if len(step.ID) > maxExpandedID {
			return fault.Newf("check plan", fault.Invalid, c.plan.Metadata.Name,
				"step IDs %s… are longer than %d letters once includes are expanded; use shorter ones", step.ID[:64], maxExpandedID)
		}
	}
	graph, err := NewGraph(checked.Plan.Spec.Steps)
	if err != nil { // each plan's own graph is sound
		return fault.New("check plan", fault.Internal, c.plan.Metadata.Name, err)
	}
	checked.Graph = graph
	return nil
}

// expand adds the plan's steps in a scope. before is what its first steps need.
func (c *checker) expand(checked *Checked, scope string, before []string) {
	for _, step := range c.plan.Spec.Steps {
		id, needs := joinID(scope, step.ID), before
		if len(step.Needs) > 0 {
			needs = c.expandNeeds(scope, step.Needs)
		}
		if made := c.includes[step.ID]; made != nil {
			checked.Scopes[id] = made.scope(step)
			made.target.expand(checked, id, needs)
			continue
		}
		step.ID, step.Needs = id, slices.Clone(needs)
		checked.Plan.Spec.Steps = append(checked.Plan.Spec.Steps, step)
	}
}

// expandNeeds puts the last steps of an included plan in the place of the step that includes it.
func (c *checker) expandNeeds(scope string, needs []string) []string {
	var out []string
	for _, need := range needs {
		made := c.includes[need]
		if made == nil {
			out = append(out, joinID(scope, need))
			continue
		}
		for _, last := range made.target.last() {
			out = append(out, joinID(scope, need+"."+last))
		}
	}
	return out
}

// last lists the steps that nothing in the plan needs, in the plan's order.
func (c *checker) last() []string {
	needed := map[string]bool{}
	for _, step := range c.plan.Spec.Steps {
		for _, need := range step.Needs {
			needed[need] = true
		}
	}
	var out []string
	for _, step := range c.plan.Spec.Steps {
		if !needed[step.ID] {
			out = append(out, c.expandNeeds("", []string{step.ID})...)
		}
	}
	return out
}

// scope is that of the included plan. What it is given stands as an expression or as a value.
func (made *include) scope(step Step) Scope {
	plan := made.target.plan
	scope := Scope{Plan: plan.Metadata.Name, Parameters: plan.Spec.Parameters, When: step.When}
	for _, name := range slices.Sorted(maps.Keys(plan.Spec.Parameters)) {
		raw, given := made.parameters[name]
		switch {
		case !given:
			raw = plan.Spec.Parameters[name].Default
		case dynamicValue(raw):
			scope.Expressions = with(scope.Expressions, name, raw)
			continue
		default:
			raw = literalValue(raw)
		}
		value, _ := plan.Spec.Parameters[name].Value(raw) // it was checked
		scope.Values = with(scope.Values, name, value)
	}
	return scope
}

func with(values map[string]any, name string, value any) map[string]any {
	if values == nil {
		values = map[string]any{}
	}
	values[name] = value
	return values
}
