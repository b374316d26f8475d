package plans

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"go.yaml.in/yaml/v3"

	"github.com/musterdr/muster/providers/fault"
)

// StepSpec is what this package must know of a step to check plans that use it.
type StepSpec struct {
	ID       string
	Summary  string // one line
	Purposes []Purpose
	FanOut   bool // it lists items of its own
	// New returns a pointer to a fresh struct whose yaml-tagged fields are the step's `with`.
	New func() any
}

// Vocabulary is the steps that plans may use.
type Vocabulary interface {
	Step(id string) (StepSpec, bool)
	IDs() []string
}

// Checked is a plan that can run, with the documents it refers to: nil where it refers to none.
type Checked struct {
	Plan       *Plan
	Cluster    *Cluster
	Repository *Repository
	Machines   *Machines
	Graph      *Graph
}

// The bounds of a plan's numbers: what lies beyond is a slip of the hand. Backoff doubles with every
// attempt, so the two of Retry together stay inside a time.Duration.
const (
	maxSteps    = 10_000
	maxParallel = 1024
	maxAttempts = 20
	maxBackoff  = Duration(time.Hour)
)

// Step IDs become keys in the journal and names in expressions.
var stepRule = regexp.MustCompile(`^[a-z][a-z0-9]{0,62}(-[a-z0-9]{1,62}){0,8}$`)

// wantedKinds are the documents that a plan works with, by its purpose; none for an unknown purpose.
func wantedKinds(purpose Purpose) []string {
	switch purpose {
	case Capture, Migrate:
		return []string{KindCluster, KindRepository}
	case Recover, Drill:
		return []string{KindRepository, KindMachines}
	default:
		return nil
	}
}

// Check finds everything that keeps a plan of the set from running: references to documents and to
// steps, cycles, settings that do not fit their steps, expressions, numbers. The error is
// fault.NotFound when there is no such plan, else fault.Invalid with all Problems.
//
// Where a plan does not name a document that its purpose works with, the only one of that kind is
// taken. Check changes nothing in the set.
func Check(set *Set, planName string, vocabulary Vocabulary) (*Checked, error) {
	return check(set, planName, vocabulary, (*checker).documents)
}

// CheckSteps is Check without the documents: for showing and drawing a plan where there is no
// inventory. The result refers to no documents and can't be run.
func CheckSteps(set *Set, planName string, vocabulary Vocabulary) (*Checked, error) {
	return check(set, planName, vocabulary, func(*checker, *Checked) {})
}

func check(set *Set, planName string, vocabulary Vocabulary, documents func(*checker, *Checked)) (*Checked, error) {
	plan, err := find(KindPlan, planName, set.Plans)
	if err != nil {
		return nil, fault.New("check plan", fault.NotFound, "", err)
	}
	env, err := newEnvironment()
	if err != nil {
		return nil, err
	}
	c := &checker{set: set, plan: plan, source: set.sources[plan], vocabulary: vocabulary, env: env}
	checked := &Checked{Plan: plan}
	c.spec()
	documents(c, checked)
	c.steps()
	checked.Graph = c.graph()
	if len(c.problems) > 0 {
		return nil, fault.New("check plan", fault.Invalid, planName, c.problems.sorted())
	}
	return checked, nil
}

type checker struct {
	set        *Set
	plan       *Plan
	source     *source
	vocabulary Vocabulary
	env        *environment
	problems   Problems
}

func (c *checker) problem(path []any, format string, args ...any) {
	c.problems.add(c.source.at(path...), format, args...)
}

func (c *checker) spec() {
	spec := c.plan.Spec
	purposes := []string{string(Capture), string(Recover), string(Drill), string(Migrate)}
	if spec.Purpose == "" {
		c.problem([]any{"spec", "purpose"}, "purpose is missing%s", suggest("", purposes))
	} else if !slices.Contains(purposes, string(spec.Purpose)) {
		c.problem([]any{"spec", "purpose"}, "unknown purpose %q%s", spec.Purpose, suggest(string(spec.Purpose), purposes))
	}
	c.parallel(spec.MaxParallel, "spec", "maxParallel")
	if len(spec.Steps) == 0 {
		c.problem([]any{"spec", "steps"}, "the plan has no steps")
	}
	if len(spec.Steps) > maxSteps {
		c.problem([]any{"spec", "steps"}, "the plan has %d steps, at most %d can run", len(spec.Steps), maxSteps)
	}
}

func (c *checker) parallel(n int, path ...any) {
	if n < 0 || n > maxParallel {
		c.problem(path, "maxParallel: want 1 to %d, or nothing for the default", maxParallel)
	}
}

func (c *checker) documents(into *Checked) {
	spec := c.plan.Spec
	into.Cluster = reference(c, KindCluster, "cluster", spec.Cluster, c.set.Clusters)
	into.Repository = reference(c, KindRepository, "repository", spec.Repository, c.set.Repositories)
	into.Machines = reference(c, KindMachines, "machines", spec.Machines, c.set.Machines)
}

func reference[T any](c *checker, kind, field, name string, documents map[string]*T) *T {
	if name != "" {
		found, err := find(kind, name, documents)
		if err != nil {
			c.problem([]any{"spec", field}, "%v", err)
		}
		return found
	}
	if !slices.Contains(wantedKinds(c.plan.Spec.Purpose), kind) {
		return nil
	}
	switch known := names(documents); len(known) {
	case 0:
		c.problem([]any{"spec"}, "a %s plan works with a %s document and none was read; add one", c.plan.Spec.Purpose, kind)
		return nil
	case 1:
		return documents[known[0]]
	default:
		c.problem([]any{"spec"}, "%s is missing and there are several%s", field, suggest("", known))
		return nil
	}
}

func (c *checker) steps() {
	first := map[string]int{}
	for i, step := range c.plan.Spec.Steps {
		at := func(path ...any) []any { return append([]any{"spec", "steps", i}, path...) }
		c.stepID(step.ID, first, i)
		c.uses(step, at)
		c.needs(step, at)
		c.policies(step, at)
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

// place makes the path to a part of the step being checked.
type place func(path ...any) []any

func (c *checker) uses(step Step, at place) {
	if step.Uses == "" {
		c.problem(at("uses"), "uses is missing: it names what the step does%s", suggest("", c.vocabulary.IDs()))
		return
	}
	spec, known := c.vocabulary.Step(step.Uses)
	if !known {
		c.problem(at("uses"), "there is no step %q to use%s", step.Uses, suggest(step.Uses, c.vocabulary.IDs()))
		return
	}
	if purpose := c.plan.Spec.Purpose; wantedKinds(purpose) != nil && !slices.Contains(spec.Purposes, purpose) {
		c.problem(at("uses"), "%s serves plans to %s, not to %s", step.Uses, joined(spec.Purposes), purpose)
	}
	c.with(step, spec, at)
	fans := spec.FanOut || step.ForEach != nil
	if !fans && mentionsItem(step.With) {
		c.problem(at("with"), "%s stands in a step without items; give it forEach", itemPlaceholder)
	}
	if !fans && step.MaxParallel != 0 {
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

// with decodes the settings into the step's own type.
func (c *checker) with(step Step, spec StepSpec, at place) {
	if len(step.With) == 0 {
		return
	}
	node, file := new(yaml.Node), ""
	if c.source != nil {
		node, file = c.source.node(at("with")...), c.source.file
	} else if err := node.Encode(step.With); err != nil {
		c.problem(at("with"), "with: %v", err)
		return
	}
	newDecoder(file, &c.problems).value(node, "with", reflect.ValueOf(spec.New()).Elem())
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
	return slices.ContainsFunc(c.plan.Spec.Steps, func(s Step) bool { return s.ID == id })
}

func (c *checker) fansOut(id string) bool {
	return slices.ContainsFunc(c.plan.Spec.Steps, func(s Step) bool {
		spec, _ := c.vocabulary.Step(s.Uses)
		return s.ID == id && (s.ForEach != nil || spec.FanOut)
	})
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
	if step.Retry.Attempts < 0 || step.Retry.Attempts > maxAttempts {
		c.problem(at("retry", "attempts"), "attempts: want 1 to %d", maxAttempts)
	}
	if step.Retry.Backoff > maxBackoff {
		c.problem(at("retry", "backoff"), "backoff: want at most %s; it doubles with every attempt", maxBackoff)
	}
	reactions := []string{string(OnFailureStop), string(OnFailureContinue), string(OnFailureUndo), string(OnFailurePause)}
	if step.OnFailure != "" && !slices.Contains(reactions, string(step.OnFailure)) {
		c.problem(at("onFailure"), "unknown onFailure %q%s", step.OnFailure, suggest(string(step.OnFailure), reactions))
	}
}

// graph makes the graph and checks what depends on it. It is left out while steps or needs are
// wrong, since it would only repeat that.
func (c *checker) graph() *Graph {
	graph, err := NewGraph(c.plan.Spec.Steps)
	var cycle *CycleError
	if errors.As(err, &cycle) && len(cycle.Path) > 2 { // a step that needs itself is reported
		c.problem(c.needPath(cycle.Path[0], cycle.Path[1]), "%v", cycle)
	}
	for i, step := range c.plan.Spec.Steps {
		c.expressions(step, i, graph)
	}
	return graph
}

func (c *checker) needPath(id, need string) []any {
	i := slices.IndexFunc(c.plan.Spec.Steps, func(s Step) bool { return s.ID == id })
	return []any{"spec", "steps", i, "needs", slices.Index(c.plan.Spec.Steps[i].Needs, need)}
}

func (c *checker) expressions(step Step, i int, graph *Graph) {
	at := func(path ...any) []any { return append([]any{"spec", "steps", i}, path...) }
	if step.When != "" {
		c.expression(step, at("when"), step.When, cel.BoolType, graph)
	}
	switch forEach := step.ForEach.(type) {
	case nil:
	case string:
		c.expression(step, at("forEach"), forEach, cel.ListType(cel.StringType), graph)
	default:
		items, problem := literalItems(forEach)
		if problem == "" && len(items) == 0 {
			problem = "the list is empty; leave the step out instead"
		}
		if problem != "" {
			c.problem(at("forEach"), "forEach: %s", problem)
		}
	}
}

func (c *checker) expression(step Step, path []any, text string, want *cel.Type, graph *Graph) {
	field := path[len(path)-1]
	compiled, problems := c.env.compile(text, want)
	for _, problem := range problems {
		c.problems.add(c.inside(path, problem.line, problem.column), "%v: %s", field, problem.text)
	}
	if len(problems) > 0 || graph == nil {
		return
	}
	before := graph.Ancestors(step.ID)
	for _, use := range compiled.receipts() {
		if text := c.receiptProblem(use.step, step.ID, before); text != "" {
			c.problems.add(c.inside(path, use.line, use.column), "%v: %s", field, text)
		}
	}
}

// receiptProblem tells why a receipt can't be read. Without a need, whether it is there would be a
// matter of luck.
func (c *checker) receiptProblem(read, by string, before []string) string {
	switch {
	case slices.Contains(before, read) && c.fansOut(read):
		return fmt.Sprintf("step %q has a receipt for each of its items, which expressions can't read", read)
	case read == "" || slices.Contains(before, read):
		return ""
	case c.hasStep(read):
		return fmt.Sprintf("the receipt of %q is there only when %q needs it; add it to needs", read, by)
	default:
		return fmt.Sprintf("there is no step %q in this plan%s", read, suggest(read, c.stepIDs(by)))
	}
}

// inside moves a position into an expression; only one that stands on one line shows its columns.
func (c *checker) inside(path []any, line, column int) Position {
	position := c.source.at(path...)
	if c.source == nil || line != 1 {
		return position
	}
	switch c.source.node(path...).Style {
	case 0:
		position.Column += column
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		position.Column += column + 1
	}
	return position
}
