package plans

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// IncludePlan is what a step uses to have the steps of another plan in its place:
//
//   - id: dns
//     uses: include-plan
//     needs: [etcd]
//     when: params.switch
//     with: {plan: switch-dns, parameters: {zone: "${ params.zone }"}}
//
// The plan is one of the documents or a built-in one, and may include plans itself, ten deep. Its
// steps get the IDs dns.<id>. The first of them, those without needs, get the needs of the include;
// what needs the include needs the last of them, those that no other one needs. The condition stands
// before that of each step, and is evaluated for each step anew. The plan sees none of the including
// plan's parameters and receipts but what it is given as parameters.
//
// Purpose, documents, maxParallel, deadline and onLocked of an included plan are for runs of its
// own; its steps have to serve the purpose of the including plan, too, and its documents must be the
// same where it names any.
const IncludePlan = "include-plan"

// IncludeSpec describes include-plan for lists of steps.
func IncludeSpec() StepSpec {
	return StepSpec{
		ID: IncludePlan, Summary: "have the steps of another plan in the place of this one",
		Purposes: []Purpose{Capture, Recover, Drill, Migrate}, New: func() any { return &includeSettings{} },
	}
}

type includeSettings struct {
	Plan       string         `yaml:"plan"`
	Parameters map[string]any `yaml:"parameters"`
}

// include is one include-plan step; target is nil when a problem was reported.
type include struct {
	parameters map[string]any
	target     *checker
}

// find looks for a plan in the set, then among the built-in ones.
func (k *checking) find(name string) (*Plan, *source, error) {
	if plan, ok := k.set.Plans[name]; ok {
		return plan, k.set.sources[plan], nil
	}
	if _, ok := Builtin(name); !ok {
		known := append(names(k.set.Plans), BuiltinNames()...)
		return nil, nil, fmt.Errorf("there is no plan %q, neither among the documents nor built in%s", name, suggest(name, known))
	}
	if k.builtins[name] == nil {
		set, err := readBuiltin(name)
		if err != nil {
			return nil, nil, err
		}
		k.builtins[name] = set
	}
	plan := k.builtins[name].Plans[name]
	return plan, k.builtins[name].sources[plan], nil
}

func readBuiltin(name string) (*Set, error) {
	content, _ := Builtin(name)
	return Read("built-in plan "+name, bytes.NewReader(content))
}

// load makes the checkers of a plan and of all that it includes. chain names the plans on the way to
// it, and ends with its own name.
func (k *checking) load(plan *Plan, from *source, chain []string) (*checker, error) {
	if known := k.plans[plan]; known != nil {
		return known, nil
	}
	c := &checker{checking: k, plan: plan, source: from, includes: map[string]*include{}, misfits: map[Purpose]*misfit{}}
	k.plans[plan] = c
	k.order = append(k.order, c)
	var err error
	if c.env, err = newEnvironment(plan.Spec.Parameters, false); err != nil {
		return nil, err
	}
	if c.itemEnv, err = newEnvironment(plan.Spec.Parameters, true); err != nil {
		return nil, err
	}
	for i, step := range plan.Spec.Steps {
		if step.Uses != IncludePlan {
			c.size = min(c.size+1, maxSteps+1)
			continue
		}
		if err := c.loadInclude(step, stepPlace(i), chain); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *checker) loadInclude(step Step, at place, chain []string) error {
	made := &include{}
	c.includes[step.ID] = made
	made.parameters, _ = step.With["parameters"].(map[string]any) // another type is reported by check
	name, _ := step.With["plan"].(string)
	if name == "" {
		c.problem(at("with", "plan"), "plan is missing: it names the plan to include")
		return nil
	}
	if mentions(name) {
		c.problem(at("with", "plan"), "plan: want a name as it stands: which steps there are is settled before the run")
		return nil
	}
	if first := slices.Index(chain, name); first >= 0 {
		c.problem(at("with", "plan"), "plans include each other: %s", strings.Join(append(slices.Clip(chain[first:]), name), " includes "))
		return nil
	}
	plan, from, err := c.find(name)
	if err != nil {
		c.problem(at("with", "plan"), "%v", err)
		return nil
	}
	chain = append(slices.Clip(chain), name)
	if len(chain) > maxIncludes+1 {
		c.tooDeep(at, chain)
		return nil
	}
	target, err := c.load(plan, from, chain)
	if err != nil {
		return err
	}
	if len(chain)+target.depth > maxIncludes+1 {
		c.tooDeep(at, append(chain, target.deepest()...))
		return nil
	}
	made.target = target
	c.depth, c.size = max(c.depth, target.depth+1), min(c.size+target.size, maxSteps+1)
	return nil
}

func (c *checker) tooDeep(at place, chain []string) {
	c.problem(at("with", "plan"), "plans can be included at most %d deep: %s", maxIncludes, strings.Join(chain, " includes "))
}

// deepest names the plans of the longest chain below this one.
func (c *checker) deepest() []string {
	for _, step := range c.plan.Spec.Steps {
		if made := c.includes[step.ID]; made != nil && made.target != nil && made.target.depth == c.depth-1 {
			return append([]string{made.target.plan.Metadata.Name}, made.target.deepest()...)
		}
	}
	return nil
}

// includeFields checks an include-plan step but for what it hands over.
func (c *checker) includeFields(step Step, at place) {
	if node, given := c.with(step, at); given {
		c.decode(node, "with", reflect.TypeFor[includeSettings](), nil)
	}
	for field, set := range map[string]bool{
		"forEach": step.ForEach != nil, "maxParallel": step.MaxParallel != 0, "timeout": step.Timeout != 0, "retry": step.Retry != Retry{},
		"onFailure": step.OnFailure != "", "optional": step.Optional, "locks": len(step.Locks) > 0,
	} {
		if set {
			c.problem(at(field), "%s is for the steps of the included plan: write it there", field)
		}
	}
	made := c.includes[step.ID]
	if purpose := c.plan.Spec.Purpose; made != nil && made.target != nil && wantedKinds(purpose) != nil {
		if found := made.target.misfit(purpose); found != nil {
			c.problem(at("with", "plan"), "a plan to %s can't include %s: step %q of plan %s is %s, which serves plans to %s",
				purpose, made.target.plan.Metadata.Name, found.step.ID, found.plan, found.step.Uses, joined(found.purposes))
		}
	}
}

// misfit is a step that does not serve a purpose; purposes are those it does.
type misfit struct {
	plan     string
	step     Step
	purposes []Purpose
}

// misfit finds the first step of the plan or of its includes that does not serve a purpose.
func (c *checker) misfit(purpose Purpose) *misfit {
	if found, known := c.misfits[purpose]; known {
		return found
	}
	c.misfits[purpose] = c.findMisfit(purpose)
	return c.misfits[purpose]
}

func (c *checker) findMisfit(purpose Purpose) *misfit {
	for _, step := range c.plan.Spec.Steps {
		if made := c.includes[step.ID]; step.Uses == IncludePlan && made.target != nil {
			if found := made.target.misfit(purpose); found != nil {
				return found
			}
		}
		if spec, known := c.vocabulary.Step(step.Uses); known && !slices.Contains(spec.Purposes, purpose) {
			return &misfit{c.plan.Metadata.Name, step, spec.Purposes}
		}
	}
	return nil
}

// includeParameters checks what an include-plan step hands over against the plan's declarations.
func (c *checker) includeParameters(step Step, at place, with *yaml.Node) {
	made := c.includes[step.ID]
	if made == nil || made.target == nil {
		return
	}
	declared := made.target.plan.Spec.Parameters
	name := made.target.plan.Metadata.Name
	for _, given := range names(made.parameters) {
		parameter, known := declared[given]
		if !known {
			c.problems.add(c.source.key(at("with", "parameters", given)...),
				"there is no parameter %q in plan %s%s", given, name, made.target.known(given))
			continue
		}
		c.handedOver(step, at, with, given, parameter, made)
	}
	for _, wanted := range names(declared) {
		if _, given := made.parameters[wanted]; !given && declared[wanted].Required() {
			c.problem(at("with"), "plan %s needs the parameter %q%s", name, wanted, made.target.declaredAt(", declared at ", wanted))
		}
	}
}

func (c *checker) handedOver(step Step, at place, with *yaml.Node, name string, parameter Parameter, made *include) {
	raw := made.parameters[name]
	if !dynamicValue(raw) {
		if _, err := parameter.Value(literalValue(raw)); err != nil {
			c.problem(at("with", "parameters", name), "%s: %v%s", name, err, made.target.declaredAt("; it is declared at ", name))
		}
		return
	}
	if node := child(with, "parameters"); node != nil && child(node, name) != nil {
		c.decode(child(node, name), name, parameter.goType(), c.dynamic(step))
	}
}

// dynamicValue reports whether a value holds an expression, or what can't be read as one.
func dynamicValue(value any) bool {
	switch v := value.(type) {
	case string:
		if !mentions(v) {
			return false
		}
		cut, problem := parseTemplate(v)
		return problem != nil || cut.dynamic()
	case []any:
		return slices.ContainsFunc(v, dynamicValue)
	case map[string]any:
		for _, element := range v {
			if dynamicValue(element) {
				return true
			}
		}
	}
	return false
}

// literalValue is a value without expressions as it stands for itself.
func literalValue(value any) any {
	switch v := value.(type) {
	case string:
		return unescape(v)
	case []any:
		out := make([]any, 0, len(v))
		for _, element := range v {
			out = append(out, literalValue(element))
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, element := range v {
			out[key] = literalValue(element)
		}
		return out
	default:
		return value
	}
}
