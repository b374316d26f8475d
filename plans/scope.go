package plans

import "strings"

// Scope is what the expressions of one plan see of parameters. A run has one for its plan, and one
// for every plan that is included, each with parameters of its own.
type Scope struct {
	// Plan is the name of the plan.
	Plan       string               `json:"plan"`
	Parameters map[string]Parameter `json:"parameters,omitempty"`
	// Values are the parameters' values, in the types that Parameter.Value returns.
	Values map[string]any `json:"values,omitempty"`
	// Expressions are the values that are known only when they are read: as in `with`, with
	// expressions of the including plan.
	Expressions map[string]any `json:"expressions,omitempty"`
	// When is the condition of the include-plan step, an expression of the including plan. It stands
	// before the conditions of all steps.
	When string `json:"when,omitempty"`
}

// scopeOf is the scope of an expanded step, or the one around a scope: all before the last dot.
func scopeOf(id string) string {
	return id[:max(0, strings.LastIndexByte(id, '.'))]
}

// joinID is the ID of a step in a scope.
func joinID(scope, own string) string {
	if scope == "" {
		return own
	}
	return scope + "." + own
}

// scopes lists a scope's ID and those around it, the plan's own ("") first.
func scopes(id string) []string {
	found := []string{""}
	for i := range id {
		if id[i] == '.' {
			found = append(found, id[:i])
		}
	}
	if id != "" {
		found = append(found, id)
	}
	return found
}
