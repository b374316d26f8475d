package plans

import (
	"fmt"
	"slices"
)

// ReadsReceipts reports whether a step's items or settings are expressions over receipts, directly
// or through the parameters of an included plan. They can't be evaluated before the steps that it
// needs have ended, and neither can the step be checked.
func (c *Checked) ReadsReceipts(step Step) bool {
	scope := scopeOf(step.ID)
	if text, isExpression := step.ForEach.(string); isExpression && c.readsReceipts(scope, text) {
		return true
	}
	return c.anyReadsReceipts(scope, step.With)
}

func (c *Checked) readsReceipts(scope, text string) bool {
	compiled, err := c.programs.compile(scope, text, c.Scopes[scope].Parameters)
	if err != nil {
		return false // evaluating it says why
	}
	if len(compiled.reads("receipts")) > 0 {
		return true
	}
	outer := scopeOf(scope)
	return scope != "" && slices.ContainsFunc(compiled.reads("params"), func(use reading) bool {
		raw, isExpression := c.Scopes[scope].Expressions[use.name]
		return isExpression && c.anyReadsReceipts(outer, raw)
	})
}

// anyReadsReceipts looks into every text of a value.
func (c *Checked) anyReadsReceipts(scope string, value any) bool {
	switch v := value.(type) {
	case string:
		if !mentions(v) {
			return false
		}
		cut, _ := parseTemplate(v)
		return slices.ContainsFunc(cut, func(piece part) bool { return piece.expression && c.readsReceipts(scope, piece.text) })
	case []any:
		return slices.ContainsFunc(v, func(element any) bool { return c.anyReadsReceipts(scope, element) })
	case map[string]any:
		for _, element := range v {
			if c.anyReadsReceipts(scope, element) {
				return true
			}
		}
	}
	return false
}

// literalItems reads a list that stands in the plan; problem is empty when it is sound.
func literalItems(forEach any) (items []string, problem string) {
	list, ok := forEach.([]any)
	if !ok {
		return nil, "want a list of texts, or an expression that gives one"
	}
	for _, element := range list {
		item, ok := element.(string)
		if !ok {
			return nil, "want text in the list; put numbers and the like in quotes"
		}
		items = append(items, item)
	}
	return items, itemProblem(items)
}

func itemProblem(items []string) string {
	seen := map[string]bool{}
	for _, item := range items {
		if item == "" {
			return "the list holds an empty item"
		}
		if seen[item] {
			return fmt.Sprintf("the list holds %q twice", item)
		}
		seen[item] = true
	}
	return ""
}
