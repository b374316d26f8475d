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

// splitID cuts the ID of an expanded step into its scope's and its own: "dns.zone" and "switch".
func splitID(id string) (scope, own string) {
	at := strings.LastIndexByte(id, '.')
	if at < 0 {
		return "", id
	}
	return id[:at], id[at+1:]
}

// joinID is splitID backwards.
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
