package plans

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"

	"github.com/musterdr/muster/providers/fault"
)

// The limits of one expression: its length in characters, and what evaluating it may cost in CEL's
// own units (about one a value that is touched). Plans come from people, and a runner must not hang
// on one.
const (
	maxExpression     = 4096
	maxExpressionCost = 1_000_000
)

// Facts are what expressions can speak of, as variables in CEL:
//
//	cluster   {name, labels, machines}; empty when the plan has none
//	machines  the target machines: a list of {name, address, role, replaces}
//	receipts  a map from step ID to that step's receipt, for steps that ended before
//	now       a timestamp
//	point     the recovery point's ID, empty in a capture
//
// cluster.machines has the form of machines. Steps that fan out have a receipt for each item, which
// expressions do not see.
type Facts struct {
	Cluster  *Cluster
	Machines *Machines
	Receipts map[string]any // decoded JSON
	Now      time.Time
	Point    string
}

// ClusterFacts is the type of the variable cluster. It is exported for CEL, which makes types from
// exported ones alone.
type ClusterFacts struct {
	Name     string            `cel:"name"`
	Labels   map[string]string `cel:"labels"`
	Machines []MachineFacts    `cel:"machines"`
}

// MachineFacts is what expressions see of a machine.
type MachineFacts struct {
	Name     string `cel:"name"`
	Address  string `cel:"address"`
	Role     string `cel:"role"`
	Replaces string `cel:"replaces"`
}

func (f Facts) variables() map[string]any {
	cluster := ClusterFacts{Labels: map[string]string{}, Machines: []MachineFacts{}}
	if f.Cluster != nil {
		cluster.Name = f.Cluster.Metadata.Name
		cluster.Machines = machineFacts(f.Cluster.Spec.Machines)
		if f.Cluster.Metadata.Labels != nil {
			cluster.Labels = f.Cluster.Metadata.Labels
		}
	}
	targets := []MachineFacts{}
	if f.Machines != nil {
		targets = machineFacts(f.Machines.Spec.Machines)
	}
	receipts := f.Receipts
	if receipts == nil {
		receipts = map[string]any{}
	}
	return map[string]any{"cluster": cluster, "machines": targets, "receipts": receipts, "now": f.Now, "point": f.Point}
}

func machineFacts(machines []Machine) []MachineFacts {
	facts := make([]MachineFacts, 0, len(machines))
	for _, m := range machines {
		facts = append(facts, MachineFacts{Name: m.Name, Address: m.Address, Role: string(m.Role), Replaces: m.Replaces})
	}
	return facts
}

// environment compiles expressions.
type environment struct {
	env   *cel.Env
	names []string // of the variables, for suggestions
}

// newEnvironment is that of the expressions of plans.
func newEnvironment() (*environment, error) {
	return environmentOf([]string{"cluster", "machines", "receipts", "now", "point"},
		ext.NativeTypes(ext.ParseStructTags(true), reflect.TypeFor[ClusterFacts](), reflect.TypeFor[MachineFacts]()),
		cel.Variable("cluster", cel.ObjectType("plans.ClusterFacts")),
		cel.Variable("machines", cel.ListType(cel.ObjectType("plans.MachineFacts"))),
		cel.Variable("receipts", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("now", cel.TimestampType),
		cel.Variable("point", cel.StringType),
	)
}

// environmentOf gives every expression the same language and limits.
func environmentOf(names []string, variables ...cel.EnvOption) (*environment, error) {
	env, err := cel.NewEnv(append([]cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(maxDepth), ext.Strings(),
	}, variables...)...)
	if err != nil {
		return nil, fault.New("prepare expressions", fault.Internal, "", err)
	}
	return &environment{env, names}, nil
}

// expressionProblem is one error of a compilation; line counts from 1 and column from 0.
type expressionProblem struct {
	line, column int
	text         string
}

// expression is a compiled one.
type expression struct {
	ast *cel.Ast
	env *environment
}

// compile also checks that the result has the wanted type; CEL's dyn passes until it is evaluated.
func (e *environment) compile(text string, want *cel.Type) (*expression, []expressionProblem) {
	compiled, issues := e.env.Compile(text)
	if issues.Err() != nil {
		var problems []expressionProblem
		for _, issue := range issues.Errors() {
			problems = append(problems, expressionProblem{issue.Location.Line(), issue.Location.Column(), readable(issue.Message, e.names)})
		}
		return nil, problems
	}
	if found := compiled.OutputType(); !want.IsAssignableType(found) && !found.IsAssignableType(want) {
		text := fmt.Sprintf("the expression gives %s, want %s", found, want)
		return nil, []expressionProblem{{1, 0, text}}
	}
	return &expression{compiled, e}, nil
}

// readable keeps CEL's message without the name of its empty container and without its parser's
// long lists of tokens.
func readable(message string, names []string) string {
	message = strings.ReplaceAll(message, " (in container '')", "")
	message, _, _ = strings.Cut(message, " expecting {")
	if name := undeclared(message); name == "item" {
		return "item is not known here: it stands for ${item} in `with`"
	} else if name != "" {
		return fmt.Sprintf("unknown name %q%s", name, suggest(name, names))
	}
	return message
}

func undeclared(message string) string {
	rest, found := strings.CutPrefix(message, "undeclared reference to '")
	if !found {
		return ""
	}
	name, _, _ := strings.Cut(rest, "'")
	return name
}

func (x *expression) evaluate(facts Facts) (any, error) {
	value, err := x.run(context.Background(), facts.variables())
	if err != nil {
		return nil, err
	}
	if list, err := value.ConvertToNative(reflect.TypeFor[[]string]()); err == nil {
		return list, nil
	}
	return value.Value(), nil
}

func (x *expression) run(ctx context.Context, variables map[string]any) (ref.Val, error) {
	program, err := x.env.env.Program(x.ast, cel.CostLimit(maxExpressionCost), cel.InterruptCheckFrequency(100))
	if err != nil {
		return nil, err
	}
	value, _, err := program.ContextEval(ctx, variables)
	return value, err
}

// receiptReference is a place in an expression that reads a step's receipt.
type receiptReference struct {
	step         string // empty when it is computed, or the map is used as a whole
	line, column int
}

// receipts finds receipts.step, receipts["step"] and other uses of the variable.
func (x *expression) receipts() []receiptReference {
	var found []receiptReference
	tree := x.ast.NativeRep()
	isReceipts := func(e ast.NavigableExpr) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == "receipts" }
	for _, use := range ast.MatchDescendants(ast.NavigateAST(tree), isReceipts) {
		location := tree.SourceInfo().GetStartLocation(use.ID())
		found = append(found, receiptReference{readStep(use), location.Line(), location.Column()})
	}
	return found
}

func readStep(use ast.NavigableExpr) string {
	parent, ok := use.Parent()
	if !ok {
		return ""
	}
	if parent.Kind() == ast.SelectKind {
		return parent.AsSelect().FieldName()
	}
	if parent.Kind() != ast.CallKind || parent.AsCall().FunctionName() != operators.Index {
		return ""
	}
	index := parent.AsCall().Args()[1]
	if index.Kind() != ast.LiteralKind {
		return ""
	}
	name, _ := index.AsLiteral().Value().(string)
	return name
}

// EvalWhen evaluates a step's condition. Errors are fault.Invalid: the expression is wrong, gives no
// truth value, reads what is not there, or costs too much.
func EvalWhen(text string, facts Facts) (bool, error) {
	value, err := evaluate("evaluate when", text, cel.BoolType, facts)
	if err != nil {
		return false, err
	}
	wanted, ok := value.(bool)
	if !ok {
		return false, fault.Newf("evaluate when", fault.Invalid, text, "want true or false, got %T", value)
	}
	return wanted, nil
}

// EvalItems gives the items of a step's forEach: a list of texts as it stands, or the result of a
// CEL expression, in its order. Empty and repeated items are refused, since an item names its task.
// Errors are as for EvalWhen.
func EvalItems(forEach any, facts Facts) ([]string, error) {
	const op = "evaluate forEach"
	text, isExpression := forEach.(string)
	if !isExpression {
		items, problem := literalItems(forEach)
		if problem != "" {
			return nil, fault.Newf(op, fault.Invalid, "", "%s", problem)
		}
		return items, nil
	}
	value, err := evaluate(op, text, cel.ListType(cel.StringType), facts)
	if err != nil {
		return nil, err
	}
	items, ok := value.([]string)
	if !ok {
		return nil, fault.Newf(op, fault.Invalid, text, "want a list of texts, got %T", value)
	}
	if problem := itemProblem(items); problem != "" {
		return nil, fault.Newf(op, fault.Invalid, text, "%s", problem)
	}
	return items, nil
}

// ReadsReceipts reports whether a forEach is an expression over receipts, which can't be evaluated
// before the steps that it needs have ended.
func ReadsReceipts(forEach any) bool {
	text, isExpression := forEach.(string)
	if !isExpression {
		return false
	}
	env, err := newEnvironment()
	if err != nil {
		return false
	}
	compiled, problems := env.compile(text, cel.ListType(cel.StringType))
	return len(problems) == 0 && len(compiled.receipts()) > 0
}

func evaluate(op, text string, want *cel.Type, facts Facts) (any, error) {
	env, err := newEnvironment()
	if err != nil {
		return nil, err
	}
	compiled, problems := env.compile(text, want)
	if len(problems) > 0 {
		return nil, fault.Newf(op, fault.Invalid, text, "%s", problems[0].text)
	}
	value, err := compiled.evaluate(facts)
	if err != nil {
		return nil, fault.New(op, fault.Invalid, text, err)
	}
	return value, nil
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

// itemPlaceholder is what `with` says where the item's name shall stand.
const itemPlaceholder = "${item}"

// Expand copies a step's settings with ${item} replaced in every text, however deep.
func Expand(with map[string]any, item string) map[string]any {
	if with == nil {
		return nil
	}
	return expand(with, item).(map[string]any)
}

func expand(value any, item string) any {
	switch v := value.(type) {
	case string:
		return strings.ReplaceAll(v, itemPlaceholder, item)
	case []any:
		out := make([]any, 0, len(v))
		for _, element := range v {
			out = append(out, expand(element, item))
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, element := range v {
			out[key] = expand(element, item)
		}
		return out
	default:
		return value
	}
}

// mentionsItem reports whether Expand would change anything.
func mentionsItem(value any) bool {
	switch v := value.(type) {
	case string:
		return strings.Contains(v, itemPlaceholder)
	case []any:
		for _, element := range v {
			if mentionsItem(element) {
				return true
			}
		}
	case map[string]any:
		for _, element := range v {
			if mentionsItem(element) {
				return true
			}
		}
	}
	return false
}
