package plans

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"

	"github.com/musterdr/muster/providers/fault"
)

// Facts are what expressions can speak of, as variables in CEL:
//
//	params    the parameters of the plan, by name and with their declared types: params.replicas
//	cluster   {name, labels, machines}; empty when the plan has none
//	machines  the target machines: a list of {name, address, role, replaces}
//	receipts  a map from step ID to that step's receipt, for steps that ended before
//	now       a timestamp
//	point     the recovery point's ID, empty in a capture
//	item      in `with` of a step that fans out: the item's name
//
// cluster.machines has the form of machines. Steps that fan out have a receipt for each item, which
// expressions do not see. Numbers in receipts are doubles, as JSON's are. In an included plan,
// receipts are those of its own steps, by the IDs that they have there; from outside, they are
// receipts["dns.switch"].
//
// The values of params are not among the facts: they are frozen with the plan. Expressions of one
// task should see one and the same Now however often it is tried, or a second try makes something
// else than the first: the time of the task's first intent, which the journal keeps.
type Facts struct {
	Cluster  *Cluster
	Machines *Machines
	// Receipts gives the receipts as decoded JSON, by the steps' IDs in the checked plan. It is called
	// when an expression reads one, and then once; nil means that there are none.
	Receipts func() map[string]any
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

// factFields are the fields of both, to suggest from.
var factFields = []string{"name", "labels", "machines", "address", "role", "replaces"}

// variables are the facts in CEL's form, but for receipts, params and item.
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
	return map[string]any{"cluster": cluster, "machines": targets, "now": f.Now, "point": f.Point}
}

func machineFacts(machines []Machine) []MachineFacts {
	facts := make([]MachineFacts, 0, len(machines))
	for _, m := range machines {
		facts = append(facts, MachineFacts{Name: m.Name, Address: m.Address, Role: string(m.Role), Replaces: m.Replaces})
	}
	return facts
}

// environment compiles the expressions of one plan.
type environment struct {
	env        *cel.Env
	variables  []string // their names
	parameters map[string]Parameter
}

// newEnvironment makes the environment of a plan with the given parameters; item tells whether there
// is one.
func newEnvironment(parameters map[string]Parameter, item bool) (*environment, error) {
	variables := map[string]*cel.Type{
		"cluster":  cel.ObjectType("plans.ClusterFacts"),
		"machines": cel.ListType(cel.ObjectType("plans.MachineFacts")),
		"receipts": cel.MapType(cel.StringType, cel.DynType),
		"now":      cel.TimestampType,
		"point":    cel.StringType,
		"params":   cel.ObjectType(parametersType),
	}
	if item {
		variables["item"] = cel.StringType
	}
	e, err := environmentOf(variables, ext.NativeTypes(ext.ParseStructTags(true), reflect.TypeFor[ClusterFacts](), reflect.TypeFor[MachineFacts]()),
		withParameters(parameters))
	if err != nil {
		return nil, err
	}
	e.parameters = parameters
	return e, nil
}

// environmentOf gives every expression the same language and limits.
func environmentOf(variables map[string]*cel.Type, options ...cel.EnvOption) (*environment, error) {
	options = append([]cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(maxDepth), ext.Strings(),
	}, options...)
	known := slices.Sorted(maps.Keys(variables))
	for _, name := range known {
		options = append(options, cel.Variable(name, variables[name]))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fault.New("prepare expressions", fault.Internal, "", err)
	}
	return &environment{env: env, variables: known}, nil
}

// parametersType is the type of the variable params: an object whose fields are a plan's parameters.
const parametersType = "plans.Parameters"

// parameterReader is the value of the variable params. Get gives a parameter's value in CEL's form;
// it is called when an expression reads it, and not before.
type parameterReader interface {
	get(name string) (any, error)
}

// parameterProvider adds the type of params to those that CEL knows.
type parameterProvider struct {
	types.Provider
	parameters map[string]Parameter
}

func withParameters(parameters map[string]Parameter) cel.EnvOption {
	return func(env *cel.Env) (*cel.Env, error) {
		return cel.CustomTypeProvider(&parameterProvider{env.CELTypeProvider(), parameters})(env)
	}
}

// FindStructType implements types.Provider.
func (p *parameterProvider) FindStructType(name string) (*types.Type, bool) {
	if name == parametersType {
		return types.NewTypeTypeWithParam(types.NewObjectType(parametersType)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *parameterProvider) FindStructFieldNames(name string) ([]string, bool) {
	if name == parametersType {
		return slices.Sorted(maps.Keys(p.parameters)), true
	}
	return p.Provider.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (p *parameterProvider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if name != parametersType {
		return p.Provider.FindStructFieldType(name, field)
	}
	parameter, known := p.parameters[field]
	if !known {
		return nil, false
	}
	return &types.FieldType{
		Type:  parameter.celType(),
		IsSet: func(any) bool { return true },
		GetFrom: func(target any) (any, error) {
			reader, ok := target.(parameterReader)
			if !ok {
				return nil, fmt.Errorf("params can only be read by field: params.%s", field)
			}
			return reader.get(field)
		},
	}, true
}
