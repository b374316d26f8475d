package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// maxDrawn is how many objects a drawing of single objects may have: nobody can read more.
const maxDrawn = 500

type pointsGraphFlags struct {
	format, explain string
	namespaces      []string
	objects         bool
}

func (a *app) pointsGraph(f *repositoryFlags) *cobra.Command {
	g := &pointsGraphFlags{}
	command := &cobra.Command{
		Use: "graph POINT", Short: "Show what the objects of a recovery point need of each other, and why one waits",
		Example: `  muster points graph latest --format svg > point.svg
  muster points graph latest --namespace shop --objects
  muster points graph latest --explain Deployment/web --namespace shop`,
		Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withPoint(command.Context(), f, args[0], func(r *repository.Repository, _ *plans.Repository, p repository.Point) error {
				graph, err := readGraph(command.Context(), r, p.ID, g)
				if err != nil {
					return err
				}
				if g.explain != "" {
					return a.explain(graph, g)
				}
				return a.drawObjects(graph, p.ID, g)
			})
		},
	}
	flags := command.Flags()
	formatFlag(command, &g.format)
	flags.StringArrayVarP(&g.namespaces, "namespace", "n", nil, "only objects of these namespaces, and what they need; patterns")
	flags.BoolVar(&g.objects, "objects", false, "draw each object, and not each kind")
	flags.StringVar(&g.explain, "explain", "", "KIND/NAME: what this object waits for, and who waits for it")
	return command
}

func readGraph(ctx context.Context, r *repository.Repository, point string, g *pointsGraphFlags) (*cluster.Graph, error) {
	recorded, err := cluster.ReadPoint(ctx, r, point)
	if err != nil {
		return nil, err
	}
	selection := cluster.Selection{Include: g.namespaces}
	if len(g.namespaces) > 0 {
		selection.ClusterResources = cluster.NeededClusterResources
	}
	return recorded.Graph(ctx, selection)
}

func (a *app) drawObjects(graph *cluster.Graph, point string, g *pointsGraphFlags) error {
	if g.objects && len(graph.Objects) > maxDrawn {
		return fault.Newf("draw", fault.Invalid, point, "it has %d objects, and a drawing at most %d: choose with --namespace, or draw kinds", len(graph.Objects), maxDrawn)
	}
	note := func(o cluster.GraphObject) string { return o.Left }
	if !g.objects {
		kinds, counts := graph.ByKind()
		graph = kinds
		note = func(o cluster.GraphObject) string { return fmt.Sprintf("%d objects", counts[o.Key]) }
	}
	needs := graph.Acyclic()
	var list []plans.Step
	for _, o := range graph.Objects {
		step := plans.Step{ID: objectText(o.Key), Uses: note(o)}
		for _, need := range needs[o.Key] {
			step.Needs = append(step.Needs, objectText(need))
		}
		list = append(list, step)
	}
	drawn, err := plans.NewGraph(list)
	if err != nil {
		return err
	}
	return a.drawGraph(g.format, plans.Drawing{Graph: drawn, Title: "Recovery point " + point, Note: "what is needed stands before what needs it"})
}

// objectText names an object, or a kind, for people: "deployments.apps shop/web".
func objectText(key cluster.Key) string {
	kind := key.Resource
	if key.Group != "" {
		kind += "." + key.Group
	}
	name := strings.TrimPrefix(key.Namespace+"/"+key.Name, "/")
	return printable(strings.TrimSpace(kind + " " + name))
}

// explain tells why an object waits.
func (a *app) explain(graph *cluster.Graph, g *pointsGraphFlags) error {
	kind, name, named := strings.Cut(g.explain, "/")
	if !named {
		return usageError(fmt.Errorf("--explain %q: want KIND/NAME, as Deployment/web", g.explain))
	}
	found := graph.Find(kind, "", name)
	if len(found) == 0 {
		return fault.Newf("explain", fault.NotFound, g.explain, "the recovery point holds no such object")
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, o := range found {
		explainObject(w, graph, o)
	}
	return w.Flush()
}

func explainObject(w *tabwriter.Writer, graph *cluster.Graph, o cluster.GraphObject) {
	fmt.Fprintf(w, "%s\n", objectText(o.Key))
	if o.Left != "" {
		fmt.Fprintf(w, "  is not replayed: %s\n", o.Left)
		return
	}
	fmt.Fprintf(w, "  goes with: %s\n", o.Wave)
	for i, need := range o.Needs {
		where, weight := "", "better there first"
		if need.Hard {
			weight = "must be there first"
		}
		if i >= o.Known {
			where, weight = "not in the recovery point: ", "is not waited for"
		}
		fmt.Fprintf(w, "  waits for\t%s\t%s\t%s%s\n", objectText(need.Key), need.Why, where, weight)
	}
	for _, other := range graph.Waiting(o.Key) {
		fmt.Fprintf(w, "  needed by\t%s\n", objectText(other.Key))
	}
}
