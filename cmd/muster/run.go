package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

func (a *app) runCommand() *cobra.Command {
	var point string
	var dryRun, diff bool
	var every time.Duration
	var given parameters
	var files resultFiles
	command := &cobra.Command{
		Use: "run PLAN", Short: "Run a plan of the documents, or a built-in one", Args: exactly(1),
		Example: "  muster run capture -f muster.yaml\n  muster run capture --dry-run\n  muster run switch-over --set zone=example.org",
		RunE: func(command *cobra.Command, args []string) error {
			set, err := a.planSet(args[0])
			if err != nil {
				return err
			}
			checked, err := plans.Check(set, args[0], vocabulary(), given...)
			if err != nil {
				return err
			}
			request := orchestrator.Request{ID: a.newRunID(args[0]), Plan: checked, Point: point}
			if checked.Plan.Spec.Purpose != plans.Capture && point == "" {
				request.Point = "latest"
			}
			if diff {
				return a.preview(command.Context(), request)
			}
			if dryRun {
				return a.dryRun(command.Context(), request)
			}
			once := func(ctx context.Context) error {
				return a.watched(ctx, files, func(ctx context.Context, r *orchestrator.Runner) (*orchestrator.Report, error) {
					return r.Start(ctx, request)
				})
			}
			if !command.Flags().Changed("every") {
				return once(command.Context())
			}
			if checked.Plan.Spec.Purpose != plans.Capture || every <= 0 {
				return fault.Newf("check --every", fault.Invalid, every.String(), "want a time above 0, and a capture plan")
			}
			return a.repeat(command.Context(), every, func(ctx context.Context) error {
				request.ID = a.newRunID(args[0])
				return once(ctx)
			})
		},
	}
	command.Flags().DurationVar(&every, "every", 0, "of a capture plan: begin a run after each such time, whatever became of the one before, until interrupted")
	command.Flags().StringVar(&point, "point", "", "the recovery point to recover from (default latest)")
	given.register(command.Flags())
	files.register(command)
	command.Flags().BoolVar(&dryRun, "dry-run", false, "call every step's check and nothing else")
	command.Flags().BoolVar(&diff, "diff", false, "call every step's check, show what would be changed in a cluster, and do nothing else")
	return command
}

// repeat begins at a steady pace; what takes longer is followed by the next at once. A failure is told and does
// not end it: the next one may do what this one could not.
func (a *app) repeat(ctx context.Context, every time.Duration, once func(context.Context) error) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := once(ctx); ctx.Err() != nil {
			return err
		} else if err != nil {
			fmt.Fprintf(a.diagnostics, "muster: %v\nmuster: the next run begins within %s\n", err, every)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil // between runs nothing is interrupted
		}
	}
}

// preview prints one change after the other, as they are found.
func (a *app) preview(ctx context.Context, request orchestrator.Request) error {
	counts := map[string]int{}
	err := a.withRunner(ctx, silent{}, func(r *orchestrator.Runner) error {
		return r.Preview(ctx, request, func(c orchestrator.Change) error {
			counts[c.Action]++
			if a.output == "json" {
				return json.NewEncoder(a.out).Encode(c)
			}
			_, err := fmt.Fprintf(a.out, "%-9s %s\n%s", c.Action, printable(c.Subject), c.Diff)
			return err
		})
	})
	if err != nil || a.output == "json" {
		return err
	}
	var sums []string
	for _, action := range slices.Sorted(maps.Keys(counts)) {
		sums = append(sums, fmt.Sprintf("%d %s", counts[action], action))
	}
	if len(sums) == 0 {
		sums = []string{"nothing to change"}
	}
	fmt.Fprintf(a.out, "plan %s: %s; nothing was done\n", request.Plan.Plan.Metadata.Name, strings.Join(sums, ", "))
	return nil
}

func (a *app) dryRun(ctx context.Context, request orchestrator.Request) error {
	return a.withRunner(ctx, silent{}, func(r *orchestrator.Runner) error {
		if err := r.DryRun(ctx, request); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "plan %s: every check passed; nothing was done\n", request.Plan.Plan.Metadata.Name)
		return nil
	})
}

// newRunID is readable, sorts by time and is unique: capture-20260102-150405-1f2e.
func (a *app) newRunID(plan string) string {
	suffix := make([]byte, 2)
	_, _ = rand.Read(suffix) // crypto/rand.Read never fails
	return fmt.Sprintf("%s-%s-%s", plan, a.now().UTC().Format("20060102-150405"), hex.EncodeToString(suffix))
}
