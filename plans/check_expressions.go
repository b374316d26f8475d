package plans

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"go.yaml.in/yaml/v3"
)

// expressions checks when, forEach and with of one step.
func (c *checker) expressions(step Step, i int) {
	at := stepPlace(i)
	c.ancestors = nil
	if step.When != "" {
		c.field(step, at("when"), step.When, cel.BoolType)
	}
	c.forEach(step, at)
	node, given := c.with(step, at)
	if step.Uses == IncludePlan {
		c.includeParameters(step, at, node)
		return
	}
	spec, known := c.vocabulary.Step(step.Uses)
	if !given || !known {
		return
	}
	c.settings(node, spec.New(), c.dynamic(step))
}

// settings checks a step's `with`: each field, and all of them together once every value is known.
func (c *checker) settings(node *yaml.Node, into any, dynamic func(*yaml.Node, string, reflect.Type) bool) {
	found, known := len(c.problems), true
	value := c.decode(node, "with", reflect.TypeOf(into).Elem(), func(node *yaml.Node, name string, field reflect.Type) bool {
		later := dynamic(node, name, field)
		known = known && !later
		return later
	})
	if !known || len(c.problems) > found {
		return
	}
	if err := validate(value.Addr().Interface()); err != nil {
		c.problems.add(Position{c.file(), node.Line, node.Column}, "with: %v", err)
	}
}

func (c *checker) forEach(step Step, at place) {
	switch forEach := step.ForEach.(type) {
	case nil:
	case string:
		c.field(step, at("forEach"), forEach, cel.ListType(cel.StringType))
	default:
		items, problem := literalItems(forEach)
		if problem == "" && len(items) == 0 {
			problem = "the list is empty; leave the step out instead"
		}
		if problem == "" && slices.ContainsFunc(items, mentions) {
			problem = `${ has no meaning in the list; write an expression that gives all of it: [params.zone, "b"]`
		}
		if problem != "" {
			c.problem(at("forEach"), "forEach: %s", problem)
		}
	}
}

// field checks a field that is one expression.
func (c *checker) field(step Step, path []any, text string, want *cel.Type) {
	position := func(offset int) Position {
		if c.source == nil {
			return Position{}
		}
		return c.source.inside(c.source.node(path...), offset)
	}
	if strings.HasPrefix(strings.TrimSpace(text), opening) {
		c.problem(path, "%v: the whole field is an expression; leave out ${ and }", path[len(path)-1])
		return
	}
	compiled, problems := c.env.compileTo(text, want)
	for _, problem := range problems {
		c.problems.add(position(problem.offset(text)), "%v: %s", path[len(path)-1], problem.text)
	}
	c.receipts(step, compiled, func(use reading) Position {
		return position(expressionProblem{use.line, use.column, ""}.offset(text))
	}, fmt.Sprint(path[len(path)-1]))
}

// receipts reports the receipts that an expression can't read. compiled may be nil.
func (c *checker) receipts(step Step, compiled *expression, position func(reading) Position, name string) {
	if compiled == nil || c.graph == nil {
		return
	}
	for _, use := range compiled.reads("receipts") {
		if text := c.receiptProblem(use.name, step.ID); text != "" {
			c.problems.add(position(use), "%s: %s", name, text)
		}
	}
}

// receiptProblem tells why a receipt can't be read. Without a need, whether it is there would be a
// matter of luck.
func (c *checker) receiptProblem(read, by string) string {
	if read == "" {
		return ""
	}
	id, inside, _ := strings.Cut(read, ".")
	if problem := c.receiptOf("", id, inside, by); problem != "" {
		return problem
	}
	if c.before(by, id) {
		return ""
	}
	if id == by {
		return "a step can't read its own receipt: it leaves it when it has ended"
	}
	needed := "it"
	if inside != "" {
		needed = fmt.Sprintf("%q", id)
	}
	return fmt.Sprintf("the receipt of %q is there only when %q needs %s; add it to needs", read, by, needed)
}

// receiptOf tells why a step has no receipt that expressions could read. inside is the rest of the
// ID when the step includes a plan; in that plan, scope is what stands before and by is empty.
func (c *checker) receiptOf(scope, id, inside, by string) string {
	included := c.includes[id]
	step, known := c.step(id)
	switch {
	case !known || inside != "" && step.Uses != IncludePlan:
		where := "this plan"
		if by == "" {
			where = fmt.Sprintf("plan %q, which is included", c.plan.Metadata.Name)
		}
		return fmt.Sprintf("there is no step %q in %s%s", joinedID(id, inside), where, suggest(id, c.stepIDs(by)))
	case step.Uses == IncludePlan && inside == "":
		return fmt.Sprintf("%q includes a plan, whose steps have the receipts: write receipts[%q] with a step of that plan",
			id, joinID(scope, id)+".…")
	case included != nil && included.target != nil:
		next, rest, _ := strings.Cut(inside, ".")
		return included.target.receiptOf(joinID(scope, id), next, rest, "")
	case c.fans(step):
		return fmt.Sprintf("step %q has a receipt for each of its items, which expressions can't read", id)
	default:
		return ""
	}
}

func joinedID(id, inside string) string { return strings.TrimSuffix(id+"."+inside, ".") }

// before reports whether a step ends before another one starts.
func (c *checker) before(by, id string) bool {
	if c.ancestors == nil {
		c.ancestors = map[string]bool{}
		for _, ancestor := range c.graph.Ancestors(by) {
			c.ancestors[ancestor] = true
		}
	}
	return c.ancestors[id]
}

// dynamic checks the expressions in texts of a step's settings: see decoder.dynamic.
func (c *checker) dynamic(step Step) func(node *yaml.Node, name string, field reflect.Type) bool {
	env := c.env
	if step.Uses != IncludePlan && c.fans(step) {
		env = c.itemEnv
	}
	return func(node *yaml.Node, name string, field reflect.Type) bool {
		cut, problem := parseTemplate(node.Value)
		if problem != nil {
			c.problems.add(c.source.inside(node, problem.offset), "%s: %s", name, problem.text)
			return true
		}
		for _, piece := range cut {
			if piece.expression {
				c.piece(step, env, node, name, field, piece, cut.single())
			}
		}
		if cut.dynamic() && !cut.single() && !fits(field, cel.StringType) {
			c.problems.add(c.source.inside(node, 0), "%s: want %s, found text with an expression in it", name, fieldName(field))
		}
		return cut.dynamic()
	}
}

// piece checks one expression in a text.
func (c *checker) piece(step Step, env *environment, node *yaml.Node, name string, field reflect.Type, piece part, single bool) {
	position := func(line, column int) Position {
		return c.source.inside(node, piece.offset+expressionProblem{line, column, ""}.offset(piece.text))
	}
	compiled, problems := env.compile(piece.text)
	for _, problem := range problems {
		c.problems.add(position(problem.line, problem.column), "%s: %s%s", name, problem.text, literalHint(problem.text))
	}
	if compiled == nil {
		return
	}
	c.receipts(step, compiled, func(use reading) Position { return position(use.line, use.column) }, name)
	found := compiled.result()
	switch start := c.source.inside(node, piece.offset+len(piece.text)-len(strings.TrimLeft(piece.text, blanks))); {
	case single && !fits(field, found):
		c.problems.add(start, "%s: the expression gives %s, want %s", name, found, fieldName(field))
	case !single && !fitsText(found):
		c.problems.add(start, "%s: the expression gives %s, which can't be put into a text", name, found)
	}
}

// literalHint helps who meant a shell's variable.
func literalHint(problem string) string {
	unknown := strings.HasPrefix(problem, "unknown name") && !strings.Contains(problem, "did you mean")
	if unknown || strings.HasPrefix(problem, "Syntax error") {
		return "; for the text ${ itself write $${"
	}
	return ""
}
