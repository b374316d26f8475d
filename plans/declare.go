package plans

import (
	"fmt"
	"regexp"
	"slices"
)

// Parameters are fields in CEL, which names with '-' are not.
var parameterRule = regexp.MustCompile(`^[a-z][a-zA-Z0-9_]{0,62}$`)

// celWords can't be fields: CEL's grammar has them for itself.
var celWords = []string{"in", "true", "false", "null"}

// declarationProblem is one thing that is wrong with a parameter.
type declarationProblem struct{ field, text string }

// problems checks a declaration, without its name.
func (p Parameter) problems() []declarationProblem {
	known := parameterTypes()
	if p.Type == "" {
		return []declarationProblem{{"type", "type is missing" + suggest("", known)}}
	}
	if !slices.Contains(known, string(p.Type)) {
		return []declarationProblem{{"type", fmt.Sprintf("unknown type %q%s", p.Type, suggest(string(p.Type), known))}}
	}
	found := append(p.textProblems(), p.boundProblems()...)
	if len(found) > 0 || p.Default == nil {
		return found
	}
	if _, err := p.Value(p.Default); err != nil {
		found = append(found, declarationProblem{"default", "default: " + err.Error()})
	}
	return found
}

// textProblems checks what is for strings and lists alone.
func (p Parameter) textProblems() (found []declarationProblem) {
	hasTexts := p.Type == ParameterString || p.Type == ParameterList
	if p.Pattern != "" {
		if !hasTexts {
			found = append(found, declarationProblem{"pattern", "pattern is for the types string and list"})
		} else if _, err := regexp.Compile(p.Pattern); err != nil {
			found = append(found, declarationProblem{"pattern", "pattern: " + err.Error()})
		}
	}
	if len(p.Enum) > 0 && !hasTexts {
		found = append(found, declarationProblem{"enum", "enum is for the types string and list"})
	}
	return found
}

// boundProblems checks what is for ints and durations alone.
func (p Parameter) boundProblems() (found []declarationProblem) {
	for _, each := range []struct {
		field string
		value any
	}{{"min", p.Min}, {"max", p.Max}} {
		if each.value == nil {
			continue
		}
		if p.Type != ParameterInt && p.Type != ParameterDuration {
			found = append(found, declarationProblem{each.field, each.field + " is for the types int and duration"})
		} else if _, err := p.typed(each.value); err != nil {
			found = append(found, declarationProblem{each.field, each.field + ": " + err.Error()})
		}
	}
	if len(found) > 0 || p.Min == nil || p.Max == nil {
		return found
	}
	low, _ := p.typed(p.Min) // both were read above
	high, _ := p.typed(p.Max)
	if above(low, high) {
		found = append(found, declarationProblem{"max", "max is below min: no value is allowed"})
	}
	return found
}

func above(low, high any) bool {
	switch l := low.(type) {
	case int64:
		h, _ := high.(int64)
		return l > h
	case Duration:
		h, _ := high.(Duration)
		return l > h
	default:
		return false
	}
}

// parameters checks the declarations of the plan.
func (c *checker) parameters() {
	for _, name := range names(c.plan.Spec.Parameters) {
		if !parameterRule.MatchString(name) || slices.Contains(celWords, name) {
			c.problems.add(c.source.key("spec", "parameters", name),
				"parameter: want a name of letters, digits and '_' that begins with a small letter; in, true, false and null are taken")
		}
		for _, problem := range c.plan.Spec.Parameters[name].problems() {
			c.problem([]any{"spec", "parameters", name, problem.field}, "%s", problem.text)
		}
	}
}

// declared is where a parameter of the plan stands.
func (c *checker) declared(name string) Position { return c.source.key("spec", "parameters", name) }

// declaredAt ends a message with that place, after the given words; a plan that was not read has none.
func (c *checker) declaredAt(words, name string) string {
	if where := c.declared(name).String(); where != "" {
		return words + where
	}
	return ""
}
