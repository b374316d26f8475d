package plans

import (
	"errors"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Step IDs become keys in the journal and names in expressions. A dot is for those that expanding an
// include makes.
var stepRule = regexp.MustCompile(`^[a-z][a-z0-9]{0,62}(-[a-z0-9]{1,62}){0,8}$`)

// The runner's own locks have a '/', so that these can't be taken for them.
var lockRule = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9._:]{0,127}$`)

// place makes the path to a part of the step being checked.
type place func(path ...any) []any

func stepPlace(i int) place {
	return func(path ...any) []any { return append([]any{"spec", "steps", i}, path...) }
}

func (c *checker) steps() {
	first := map[string]int{}
	for i, step := range c.plan.Spec.Steps {
		at := stepPlace(i)
		c.stepID(step.ID, first, i)
		c.uses(step, at)
		c.needs(step, at)
		if step.Uses != IncludePlan {
			c.policies(step, at)
		}
	}
}

func (c *checker) stepID(id string, first map[string]int, i int) {
	at := []any{"spec", "steps", i, "id"}
	if id == "" {
		c.problem(at, "id is missing")
		return
	}
	if !stepRule.MatchString(id) {
		c.problem(at, "id: want lower-case words joined by '-', beginning with a letter")
	}
	if earlier, taken := first[id]; taken {
		c.problem(at, "there is a step %q already, at %s", id, c.source.at("spec", "steps", earlier, "id"))
		return
	}
	first[id] = i
}

func (c *checker) uses(step Step, at place) {
	known := append(c.vocabulary.IDs(), IncludePlan)
	if step.Uses == "" {
		c.problem(at("uses"), "uses is missing: it names what the step does%s", suggest("", known))
		return
	}
	if step.Uses == IncludePlan {
		c.includeFields(step, at)
		return
	}
	spec, found := c.vocabulary.Step(step.Uses)
	if !found {
		c.problem(at("uses"), "there is no step %q to use%s", step.Uses, suggest(step.Uses, known))
		return
	}
	if purpose := c.plan.Spec.Purpose; wantedKinds(purpose) != nil && !slices.Contains(spec.Purposes, purpose) {
		c.problem(at("uses"), "%s serves plans to %s, not to %s", step.Uses, joined(spec.Purposes), purpose)
	}
	if !c.fans(step) && step.MaxParallel != 0 {
		c.problem(at("maxParallel"), "maxParallel bounds the items of a step, and this one has none")
	}
}

func joined(purposes []Purpose) string {
	words := make([]string, 0, len(purposes))
	for _, purpose := range purposes {
		words = append(words, string(purpose))
	}
	return strings.Join(words, " or ")
}

// fans reports whether a step has items.
func (c *checker) fans(step Step) bool {
	spec, _ := c.vocabulary.Step(step.Uses)
	return step.ForEach != nil || spec.FanOut
}

func (c *checker) needs(step Step, at place) {
	seen := map[string]bool{}
	for i, need := range step.Needs {
		switch {
		case seen[need]:
			c.problem(at("needs", i), "%q stands in needs already", need)
		case need == step.ID:
			c.problem(at("needs", i), "the step needs itself")
		case !c.hasStep(need):
			c.problem(at("needs", i), "there is no step %q in this plan%s", need, suggest(need, c.stepIDs(step.ID)))
		}
		seen[need] = true
	}
}

func (c *checker) hasStep(id string) bool {
	_, found := c.step(id)
	return found
}

func (c *checker) step(id string) (Step, bool) {
	i := slices.IndexFunc(c.plan.Spec.Steps, func(s Step) bool { return s.ID == id })
	if i < 0 {
		return Step{}, false
	}
	return c.plan.Spec.Steps[i], true
}

// stepIDs lists the plan's steps but one.
func (c *checker) stepIDs(but string) []string {
	var ids []string
	for _, step := range c.plan.Spec.Steps {
		if step.ID != but && step.ID != "" {
			ids = append(ids, step.ID)
		}
	}
	return ids
}

func (c *checker) policies(step Step, at place) {
	c.parallel(step.MaxParallel, at("maxParallel")...)
	c.retry(step.Retry, at)
	c.locks(step.Locks, at)
	reactions := []string{string(OnFailureStop), string(OnFailureContinue), string(OnFailureUndo), string(OnFailurePause)}
	if step.OnFailure != "" && !slices.Contains(reactions, string(step.OnFailure)) {
		c.problem(at("onFailure"), "unknown onFailure %q%s", step.OnFailure, suggest(string(step.OnFailure), reactions))
	} else if step.Optional && step.OnFailure != "" && step.OnFailure != OnFailureContinue {
		c.problem(at("onFailure"), "the step is optional, so its failure can't %s the run; leave one of the two out", step.OnFailure)
	}
}

func (c *checker) retry(retry Retry, at place) {
	if retry.Attempts < 0 || retry.Attempts > maxAttempts {
		c.problem(at("retry", "attempts"), "attempts: want 1 to %d", maxAttempts)
	}
	if retry.Backoff > maxBackoff {
		c.problem(at("retry", "backoff"), "backoff: want at most %s; it doubles with every attempt", maxBackoff)
	}
	if retry.MaxBackoff > longestWait {
		c.problem(at("retry", "maxBackoff"), "maxBackoff: want at most %s", longestWait)
	} else if retry.MaxBackoff > 0 && retry.MaxBackoff < retry.WithDefaults().Backoff {
		c.problem(at("retry", "maxBackoff"), "maxBackoff: want at least backoff, which is %s", retry.WithDefaults().Backoff)
	}
}

func (c *checker) locks(locks []string, at place) {
	if len(locks) > maxLocks {
		c.problem(at("locks"), "locks: want at most %d", maxLocks)
	}
	for i, lock := range locks {
		if !lockRule.MatchString(lock) {
			c.problem(at("locks", i), "lock: want letters, digits, '-', '_', '.' and ':', at most 128")
		}
		if slices.Index(locks, lock) < i {
			c.problem(at("locks", i), "%q stands in locks already", lock)
		}
	}
}

// makeGraph makes the graph. It stays nil while steps or needs are wrong: what depends on it would
// only repeat that.
func (c *checker) makeGraph() {
	graph, err := NewGraph(c.plan.Spec.Steps)
	var cycle *CycleError
	if errors.As(err, &cycle) && len(cycle.Path) > 2 { // a step that needs itself is reported
		c.problem(c.needPath(cycle.Path[0], cycle.Path[1]), "%v", cycle)
	}
	c.graph = graph
}

func (c *checker) needPath(id, need string) []any {
	i := slices.IndexFunc(c.plan.Spec.Steps, func(s Step) bool { return s.ID == id })
	return []any{"spec", "steps", i, "needs", slices.Index(c.plan.Spec.Steps[i].Needs, need)}
}

// with is the YAML of a step's settings. A plan that was not read gets one without positions.
func (c *checker) with(step Step, at place) (*yaml.Node, bool) {
	if len(step.With) == 0 {
		return nil, false
	}
	if c.source != nil {
		return c.source.node(at("with")...), true
	}
	node, err := nodeOf(step.With)
	if err != nil {
		c.problem(at("with"), "with: %v", err)
	}
	return node, err == nil
}

// decode checks a value of `with` against the type of its field, and returns it; dynamic checks its
// expressions.
func (c *checker) decode(node *yaml.Node, name string, field reflect.Type, dynamic func(*yaml.Node, string, reflect.Type) bool) reflect.Value {
	decoder := newDecoder(c.file(), &c.problems)
	decoder.dynamic = dynamic
	value := reflect.New(field).Elem()
	decoder.value(node, name, value)
	return value
}

// file is the one that the plan was read from, empty when it was not.
func (c *checker) file() string {
	if c.source == nil {
		return ""
	}
	return c.source.file
}
