package plans

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// Show writes a checked plan for people, in 80 columns: what it works with, then its steps in the
// order they may run, each with what it does, what it waits for and its policies.
func Show(out io.Writer, checked *Checked, vocabulary Vocabulary) error {
	p := &page{}
	p.head(checked)
	if err := p.parameters(checked); err != nil {
		return err
	}
	for n, id := range checked.Graph.Order() {
		step := checked.Plan.Spec.Steps[checked.Graph.index[id]]
		if err := p.step(n+1, step, checked, vocabulary); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out, p.String())
	return err
}

// page is text being laid out.
type page struct{ strings.Builder }

func (p *page) line(label, text string) {
	if text != "" {
		p.WriteString(wrap(label, text, pageWidth))
	}
}

func (p *page) head(checked *Checked) {
	plan := checked.Plan
	p.line("Plan        ", plan.Metadata.Name)
	p.line("Purpose     ", string(plan.Spec.Purpose))
	if checked.Cluster != nil {
		p.line("Cluster     ", fmt.Sprintf("%s (%s)", checked.Cluster.Metadata.Name, count(len(checked.Cluster.Spec.Machines), "machine")))
	}
	if checked.Repository != nil {
		p.line("Repository  ", fmt.Sprintf("%s (%s)", checked.Repository.Metadata.Name, checked.Repository.Spec.URL))
	}
	if checked.Machines != nil {
		p.line("Machines    ", fmt.Sprintf("%s (%s)", checked.Machines.Metadata.Name, count(len(checked.Machines.Spec.Machines), "machine")))
	}
	if plan.Spec.MaxParallel > 0 {
		p.line("In parallel ", fmt.Sprintf("at most %s", count(plan.Spec.MaxParallel, "task")))
	}
	if plan.Spec.Deadline > 0 {
		p.line("Deadline    ", plan.Spec.Deadline.String())
	}
	p.line("When locked ", string(plan.Spec.OnLocked))
}

// parameters shows the plan's own with their values, then each included plan with what it is given.
func (p *page) parameters(checked *Checked) error {
	for _, id := range names(checked.Scopes) {
		scope := checked.Scopes[id]
		p.WriteString("\n")
		if id == "" {
			p.WriteString("Parameters\n")
		} else {
			fmt.Fprintf(p, "Steps of %s.*: plan %s\n", id, scope.Plan)
			p.line("     when   ", scope.When)
		}
		width := 7 // of the labels of steps
		for name := range scope.Parameters {
			width = max(width, min(len(name), 24))
		}
		for _, name := range names(scope.Parameters) {
			if err := p.parameter(name, width, scope); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *page) parameter(name string, width int, scope Scope) error {
	declared := scope.Parameters[name]
	value, given := scope.Values[name]
	if !given {
		value, given = scope.Expressions[name]
	}
	text := "required"
	if given {
		shown, err := shownValue(value)
		if err != nil {
			return fault.New("show plan", fault.Internal, name, err)
		}
		text = shown
	}
	p.line(fmt.Sprintf("     %-*s", width, name), fmt.Sprintf("%s (%s) %s", text, declared.Type, declared.Description))
	return nil
}

// shownValue writes a value as JSON, as people read it.
func shownValue(value any) (string, error) {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return strings.TrimSpace(text.String()), err
}

func count(n int, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

func (p *page) step(number int, step Step, checked *Checked, vocabulary Vocabulary) error {
	fmt.Fprintf(p, "\n%3d  %s  (%s)\n", number, step.ID, step.Uses)
	if spec, known := vocabulary.Step(step.Uses); known {
		p.line("   ", spec.Summary)
	}
	needs := strings.Join(step.Needs, ", ")
	if needs == "" {
		needs = "nothing"
	}
	p.line("     needs   ", needs)
	p.line("     when    ", strings.Join(checked.conditions(step), ", and "))
	items, err := shownItems(step)
	if err != nil {
		return err
	}
	p.line("     items   ", items)
	with, err := shownSettings(step)
	if err != nil {
		return err
	}
	p.line("     with    ", with)
	p.line("     locks   ", strings.Join(step.Locks, ", "))
	p.line("     policy  ", policy(step))
	return nil
}

// conditions are those that must hold for a step, outermost first: of the plans that it comes from,
// then its own.
func (c *Checked) conditions(step Step) []string {
	var found []string
	own := scopeOf(step.ID)
	for _, id := range scopes(own) {
		if when := c.Scopes[id].When; when != "" {
			found = append(found, when)
		}
	}
	if step.When != "" {
		found = append(found, step.When)
	}
	return found
}

func shownItems(step Step) (string, error) {
	text := ""
	switch forEach := step.ForEach.(type) {
	case nil:
	case string:
		text = "each of " + forEach
	default:
		items, problem := literalItems(forEach)
		if problem != "" {
			return "", fault.Newf("show plan", fault.Invalid, step.ID, "forEach: %s", problem)
		}
		text = strings.Join(items, ", ")
	}
	if step.MaxParallel == 0 {
		return text, nil
	}
	return strings.TrimPrefix(fmt.Sprintf("%s; at most %d at once", text, step.MaxParallel), "; "), nil
}

func shownSettings(step Step) (string, error) {
	var settings []string
	for _, name := range slices.Sorted(maps.Keys(step.With)) {
		value, err := shownValue(step.With[name])
		if err != nil {
			return "", fault.New("show plan", fault.Internal, step.ID, err)
		}
		settings = append(settings, name+": "+value)
	}
	return strings.Join(settings, ", "), nil
}

func policy(step Step) string {
	var parts []string
	if step.Optional {
		parts = append(parts, "optional")
	}
	if step.Timeout > 0 {
		parts = append(parts, "timeout "+step.Timeout.String())
	}
	if step.Retry.Attempts > 0 {
		parts = append(parts, count(step.Retry.Attempts, "attempt"))
	}
	if step.Retry.Backoff > 0 {
		parts = append(parts, "backoff "+step.Retry.Backoff.String())
	}
	if step.Retry.MaxBackoff > 0 {
		parts = append(parts, "at most "+step.Retry.MaxBackoff.String())
	}
	if step.OnFailure != "" {
		parts = append(parts, "on failure "+string(step.OnFailure))
	}
	return strings.Join(parts, ", ")
}
