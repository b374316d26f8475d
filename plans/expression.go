package plans

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
)

// The limits of one expression: its length in characters, and what evaluating it may cost in CEL's
// own units (about one a value that is touched). Plans come from people, and a runner must not hang
// on one.
const (
	maxExpression     = 4096
	maxExpressionCost = 1_000_000
)

// expressionProblem is one error of a compilation; line counts from 1 and column from 0.
type expressionProblem struct {
	line, column int
	text         string
}

// offset is the place in bytes.
func (p expressionProblem) offset(text string) int {
	at := 0
	for line := 1; line < p.line; line++ {
		next := strings.IndexByte(text[at:], '\n')
		if next < 0 {
			return len(text)
		}
		at += next + 1
	}
	characters := 0
	for i := range text[at:] {
		if characters == p.column {
			return at + i
		}
		characters++
	}
	return len(text)
}

// expression is a compiled one.
type expression struct {
	ast *cel.Ast
	env *environment
}

// compile checks an expression as far as its types are known.
func (e *environment) compile(text string) (*expression, []expressionProblem) {
	parsed, issues := e.env.Parse(text)
	if issues.Err() != nil {
		return nil, e.readable(nil, issues)
	}
	checked, issues := e.env.Check(parsed)
	if issues.Err() != nil {
		return nil, e.readable(parsed, issues)
	}
	return &expression{checked, e}, nil
}

// compileTo also checks that the result has the wanted type; CEL's dyn passes until it is evaluated.
func (e *environment) compileTo(text string, want *cel.Type) (*expression, []expressionProblem) {
	compiled, problems := e.compile(text)
	if len(problems) > 0 {
		return nil, problems
	}
	if found := compiled.result(); !want.IsAssignableType(found) && !found.IsAssignableType(want) {
		text := fmt.Sprintf("the expression gives %s, want %s", found, want)
		return nil, []expressionProblem{{1, 0, text}}
	}
	return compiled, nil
}

// result is the type of the value.
func (x *expression) result() *cel.Type { return x.ast.OutputType() }

func (e *environment) readable(parsed *cel.Ast, issues *cel.Issues) []expressionProblem {
	var problems []expressionProblem
	for _, issue := range issues.Errors() {
		text := e.message(issue.Message, func() string { return operandOf(parsed, issue.ExprID) })
		problems = append(problems, expressionProblem{issue.Location.Line(), issue.Location.Column(), text})
	}
	return problems
}

// message keeps CEL's without the name of its empty container and without its parser's long lists of
// tokens. operand names the variable whose field the message is about.
func (e *environment) message(message string, operand func() string) string {
	message = strings.ReplaceAll(message, " (in container '')", "")
	message, _, _ = strings.Cut(message, " expecting {")
	if name := quoted(message, "undeclared reference to '"); name == "item" {
		return "item is not known here: it is the item's name in `with` of a step that has items; give it forEach"
	} else if name != "" {
		return fmt.Sprintf("unknown name %q%s", name, suggest(name, e.variables))
	}
	field := quoted(message, "undefined field '")
	switch {
	case field == "":
		return message
	case operand() == "params":
		if len(e.parameters) == 0 {
			return fmt.Sprintf("there is no parameter %q: the plan declares none under spec.parameters", field)
		}
		return fmt.Sprintf("there is no parameter %q%s", field, suggest(field, names(e.parameters)))
	case nearest(field, factFields) != "":
		return fmt.Sprintf("undefined field %q%s", field, suggest(field, factFields))
	default:
		return fmt.Sprintf("undefined field %q", field)
	}
}

// quoted returns what a message holds in quotes after the words it begins with.
func quoted(message, begin string) string {
	rest, found := strings.CutPrefix(message, begin)
	if !found {
		return ""
	}
	name, _, _ := strings.Cut(rest, "'")
	return name
}

// operandOf names the variable of which an expression selects a field, empty when it is none.
func operandOf(parsed *cel.Ast, id int64) string {
	if parsed == nil {
		return ""
	}
	selects := func(e ast.NavigableExpr) bool { return e.ID() == id && e.Kind() == ast.SelectKind }
	for _, found := range ast.MatchDescendants(ast.NavigateAST(parsed.NativeRep()), selects) {
		if operand := found.AsSelect().Operand(); operand.Kind() == ast.IdentKind {
			return operand.AsIdent()
		}
	}
	return ""
}

// reading is a place in an expression that reads an element of a variable.
type reading struct {
	name         string // empty when it is computed, or the variable is used as a whole
	line, column int
}

// reads finds variable.name, variable["name"] and other uses of a variable.
func (x *expression) reads(variable string) []reading {
	var found []reading
	tree := x.ast.NativeRep()
	isVariable := func(e ast.NavigableExpr) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == variable }
	for _, use := range ast.MatchDescendants(ast.NavigateAST(tree), isVariable) {
		location := tree.SourceInfo().GetStartLocation(use.ID())
		found = append(found, reading{readName(use), location.Line(), location.Column()})
	}
	return found
}

func readName(use ast.NavigableExpr) string {
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

// program makes an expression ready to be evaluated, any number of times and concurrently.
func (x *expression) program() (cel.Program, error) {
	return x.env.env.Program(x.ast, cel.CostLimit(maxExpressionCost), cel.InterruptCheckFrequency(100))
}

// run evaluates a program. There is nothing to cancel: the cost limit ends it.
func run(program cel.Program, variables map[string]any) (any, error) {
	value, _, err := program.ContextEval(context.Background(), variables)
	if err != nil {
		return nil, err
	}
	return native(value)
}
