package orchestrator

import (
	"sort"

	"github.com/musterdr/muster/plans"
)

// Vocabulary is the list of steps as plans see it.
type Vocabulary []Definition

// Step finds a step by its ID.
func (v Vocabulary) Step(id string) (plans.StepSpec, bool) {
	for _, d := range v {
		if d.ID != id {
			continue
		}
		_, fans := d.New().(FanOut)
		return plans.StepSpec{ID: d.ID, Summary: d.Summary, Purposes: d.Purposes, FanOut: fans, New: func() any { return d.New() }}, true
	}
	return plans.StepSpec{}, false
}

// IDs lists all steps, sorted.
func (v Vocabulary) IDs() []string {
	ids := make([]string, 0, len(v))
	for _, d := range v {
		ids = append(ids, d.ID)
	}
	sort.Strings(ids)
	return ids
}
