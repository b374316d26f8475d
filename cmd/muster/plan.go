package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

func (a *app) planCommand() *cobra.Command {
	command := group("plan", "Check, show and draw plans; list steps")
	command.AddCommand(a.planCheck(), a.planShow(), a.planGraph(), a.planPrint(), a.planSteps())
	return command
}

func (a *app) planCheck() *cobra.Command {
	var given parameters
	command := &cobra.Command{
		Use: "check PLAN", Short: "Check a plan and the documents it refers to", Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := a.planSet(args[0])
			if err != nil {
				return err
			}
			checked, err := plans.Check(set, args[0], vocabulary(), given...)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "plan %s: %d steps, all well\n", args[0], len(checked.Plan.Spec.Steps))
			return nil
		},
	}
	given.register(command.Flags())
	return command
}

// shownPlan is the JSON form of a plan: its includes expanded, with the values of its parameters.
type shownPlan struct {
	*plans.Plan
	Scopes map[string]plans.Scope `json:"scopes,omitempty"`
}

func (a *app) planShow() *cobra.Command {
	var given parameters
	command := &cobra.Command{
		Use: "show PLAN", Short: "Show a plan for reading", Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			checked, err := a.planAlone(args[0], given)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(a.out, shownPlan{checked.Plan, checked.Scopes})
			}
			return plans.Show(a.out, checked, vocabulary())
		},
	}
	given.register(command.Flags())
	return command
}

func (a *app) planGraph() *cobra.Command {
	var format string
	command := &cobra.Command{
		Use: "graph PLAN", Short: "Draw a plan's steps and what they need", Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			checked, err := a.planAlone(args[0], nil)
			if err != nil {
				return err
			}
			return a.drawGraph(format, planDrawing(checked))
		},
	}
	formatFlag(command, &format)
	return command
}

func (a *app) planPrint() *cobra.Command {
	return &cobra.Command{
		Use: "print PLAN", Short: "Print a built-in plan, to start one of your own from", Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			content, ok := plans.Builtin(args[0])
			if !ok {
				return fault.Newf("print plan", fault.NotFound, args[0], "the built-in plans are %v", plans.BuiltinNames())
			}
			_, err := a.out.Write(content)
			return err
		},
	}
}

func (a *app) planSteps() *cobra.Command {
	return &cobra.Command{
		Use: "steps", Short: "List the steps that plans can use", Args: exactly(0),
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			listed := []plans.StepSpec{plans.IncludeSpec()}
			for _, id := range vocabulary().IDs() {
				spec, _ := vocabulary().Step(id)
				listed = append(listed, spec)
			}
			slices.SortFunc(listed, func(a, b plans.StepSpec) int { return strings.Compare(a.ID, b.ID) })
			for _, spec := range listed {
				fmt.Fprintf(w, "%s\t%s\n", spec.ID, spec.Summary)
			}
			return w.Flush()
		},
	}
}

// planAlone checks a plan's steps without asking for the documents it refers to.
func (a *app) planAlone(name string, given parameters) (*plans.Checked, error) {
	set, err := a.planSet(name)
	if err != nil {
		return nil, err
	}
	return plans.CheckSteps(set, name, vocabulary(), given...)
}
