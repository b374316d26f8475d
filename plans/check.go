package plans

import (
	"slices"
	"time"

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

// Vocabulary is the steps that plans may use, but for include-plan, which every plan may.
type Vocabulary interface {
	Step(id string) (StepSpec, bool)
	IDs() []string
}

// Checked is a plan that can run, with the documents it refers to: nil where it refers to none. It
// is safe for concurrent use.
type Checked struct {
	// Plan has no include-plan steps any more: the steps of the included plans stand in their place.
	Plan       *Plan
	Cluster    *Cluster
	Repository *Repository
	Machines   *Machines
	Graph      *Graph
	// Scopes are the values of parameters, by scope: "" is the plan's own, "dns" that of the plan that
	// the step "dns" includes. A plan without parameters has none.
	Scopes map[string]Scope

	programs programs
}

// The bounds of a plan's numbers: what lies beyond is a slip of the hand. Backoff doubles with every
// attempt.
const (
	maxSteps      = 10_000
	maxParallel   = 1024
	maxAttempts   = 20
	maxLocks      = 32
	maxBackoff    = Duration(time.Hour)
	longestWait   = 24 * maxBackoff
	maxIncludes   = 10 // how deep
	maxExpandedID = 512
)

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

// Check finds everything that keeps a plan of the set, or a built-in one, from running: references
// to documents, plans and steps, cycles, settings that do not fit their steps, expressions, numbers,
// values of parameters. The error is fault.NotFound when there is no such plan, else fault.Invalid
// with all Problems.
//
// Where a plan does not name a document that its purpose works with, the only one of that kind is
// taken. Check changes nothing in the set.
func Check(set *Set, planName string, vocabulary Vocabulary, settings ...Setting) (*Checked, error) {
	return check(set, planName, vocabulary, settings, true)
}

// CheckSteps is Check without the documents, and required parameters may be left out: for showing
// and drawing a plan where there is no inventory. The result refers to no documents and, where a
// value is missing, can't be run.
func CheckSteps(set *Set, planName string, vocabulary Vocabulary, settings ...Setting) (*Checked, error) {
	return check(set, planName, vocabulary, settings, false)
}

func check(set *Set, planName string, vocabulary Vocabulary, settings []Setting, whole bool) (*Checked, error) {
	k := &checking{set: set, vocabulary: vocabulary, plans: map[*Plan]*checker{}, builtins: map[string]*Set{}}
	plan, from, err := k.find(planName)
	if err != nil {
		return nil, fault.New("check plan", fault.NotFound, "", err)
	}
	root, err := k.load(plan, from, []string{planName})
	if err != nil {
		return nil, err
	}
	for _, c := range k.order {
		c.check()
	}
	checked := &Checked{}
	if whole {
		root.documents(checked)
	}
	values := root.values(settings, whole)
	if root.size > maxSteps {
		root.problem([]any{"spec", "steps"}, "the plan has more than %d steps, and no more can run", maxSteps)
	}
	if len(k.problems) > 0 {
		return nil, fault.New("check plan", fault.Invalid, planName, k.problems.sorted())
	}
	return checked, root.expandInto(checked, values)
}

// checking is one call of Check: what the checkers of its plans share.
type checking struct {
	set        *Set
	vocabulary Vocabulary
	builtins   map[string]*Set // those that were read
	plans      map[*Plan]*checker
	order      []*checker // each plan before those that it includes
	problems   Problems
}

// checker checks one plan.
type checker struct {
	*checking
	plan      *Plan
	source    *source
	env       *environment // of `when` and `forEach`, and of `with` where there is no item
	itemEnv   *environment
	graph     *Graph // nil when steps or needs are wrong
	includes  map[string]*include
	depth     int             // of includes below this plan
	size      int             // steps, once includes are expanded; never much above maxSteps
	ancestors map[string]bool // of the step that is being checked
	misfits   map[Purpose]*misfit
}

func (c *checker) problem(path []any, format string, args ...any) {
	c.problems.add(c.source.at(path...), format, args...)
}

// check finds what is wrong with the plan itself, whoever includes it.
func (c *checker) check() {
	c.spec()
	c.parameters()
	c.steps()
	c.makeGraph()
	for i, step := range c.plan.Spec.Steps {
		c.expressions(step, i)
	}
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
	if locked := []string{string(OnLockedRefuse), string(OnLockedWait)}; spec.OnLocked != "" && !slices.Contains(locked, string(spec.OnLocked)) {
		c.problem([]any{"spec", "onLocked"}, "unknown onLocked %q%s", spec.OnLocked, suggest(string(spec.OnLocked), locked))
	}
	if len(spec.Steps) == 0 {
		c.problem([]any{"spec", "steps"}, "the plan has no steps")
	}
}

func (c *checker) parallel(n int, path ...any) {
	if n < 0 || n > maxParallel {
		c.problem(path, "maxParallel: want 1 to %d, or nothing for the default", maxParallel)
	}
}

// documents finds what the run works with. Included plans may name the same, and nothing else.
func (c *checker) documents(into *Checked) {
	spec := c.plan.Spec
	into.Cluster = reference(c, KindCluster, "cluster", spec.Cluster, c.set.Clusters)
	into.Repository = reference(c, KindRepository, "repository", spec.Repository, c.set.Repositories)
	into.Machines = reference(c, KindMachines, "machines", spec.Machines, c.set.Machines)
	for _, included := range c.order[1:] {
		spec := included.plan.Spec
		same(c, included, KindCluster, "cluster", spec.Cluster, into.Cluster, c.set.Clusters)
		same(c, included, KindRepository, "repository", spec.Repository, into.Repository, c.set.Repositories)
		same(c, included, KindMachines, "machines", spec.Machines, into.Machines, c.set.Machines)
	}
	into.Cluster = c.set.withEngines(into.Cluster)
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

func same[T any](root, included *checker, kind, field, name string, taken *T, documents map[string]*T) {
	if name != "" && (taken == nil || documents[name] != taken) {
		included.problem([]any{"spec", field}, "plan %q includes this one and works with another %s, or with none; name the same one in both",
			root.plan.Metadata.Name, kind)
	}
}
