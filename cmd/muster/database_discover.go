package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// discoveredDatabase is a database of the cluster and what protects it.
type discoveredDatabase struct {
	database.Found
	// Plans are those that back up one of Found.Databases.
	Plans []string `json:"plans"`
}

func (a *app) databaseDiscoverCommand() *cobra.Command {
	namespaces, name := "", ""
	command := &cobra.Command{
		Use:   "discover",
		Short: "Find the databases that run in the cluster, and those that no plan protects",
		Long: `Finds databases by the images and ports of pods, and by objects of operators, as the engines' definitions say.
For those that the Cluster document does not list it prints what can be added under spec.databases; look at
each: what an image is called proves little. Secrets are named and not read.`,
		Example: "  muster database discover -f muster.yaml\n  muster database discover --namespace 'shop-*'",
		Args:    exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			if _, err := path.Match(namespaces, ""); err != nil {
				return usageError(fmt.Errorf("--namespace: %w", err))
			}
			set, err := a.readDocuments()
			if err != nil {
				return err
			}
			document, err := a.databaseCluster(set, name)
			if err != nil {
				return err
			}
			all, err := a.discoverDatabases(command.Context(), set, document, namespaces)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(a.out, all)
			}
			return a.printDiscovered(all)
		},
	}
	command.Flags().StringVar(&namespaces, "namespace", "", "look in the namespaces that fit this pattern alone")
	command.Flags().StringVar(&name, "cluster", "", "the Cluster document, where there are several")
	return command
}

func (a *app) discoverDatabases(ctx context.Context, set *plans.Set, document *plans.Cluster, namespaces string) ([]discoveredDatabase, error) {
	known, err := enginesOf(set)
	if err == nil {
		err = unusable(known)
	}
	if err != nil {
		return nil, err
	}
	engines := map[string]plans.Engine{}
	for _, e := range known {
		engines[e.Name] = plans.Engine{Metadata: plans.Metadata{Name: e.Name}, Spec: e.Spec}
	}
	client, err := cluster.Connect(cluster.Access{KubeconfigFile: document.Spec.KubeconfigFile, Context: document.Spec.Context})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	only := ""
	if !strings.ContainsAny(namespaces, `*?[\`) {
		only = namespaces
	}
	workloads, err := client.Workloads(ctx, only, database.Operators(engines))
	if err != nil {
		return nil, err
	}
	protectors := a.protectors(ctx, set, document)
	all := []discoveredDatabase{}
	for _, found := range database.Discover(engines, workloads, document.Spec.Databases) {
		if fits, _ := path.Match(namespaces, found.Namespace); namespaces != "" && !fits { // the pattern is well
			continue
		}
		one := discoveredDatabase{Found: found, Plans: []string{}}
		for _, entry := range found.Databases {
			for _, plan := range protectors[entry] {
				if !slices.Contains(one.Plans, plan) {
					one.Plans = append(one.Plans, plan)
				}
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// protectors are the plans that back up each database of the Cluster document: the documents' own that capture
// this cluster, and where there is none, the built-in one.
func (a *app) protectors(ctx context.Context, set *plans.Set, document *plans.Cluster) map[string][]string {
	names := []string{}
	for name, plan := range set.Plans {
		if plan.Spec.Purpose == plans.Capture && (plan.Spec.Cluster == "" || plan.Spec.Cluster == document.Metadata.Name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		if _, err := set.AddBuiltin("capture"); err == nil {
			names = append(names, "capture")
		}
	}
	slices.Sort(names)
	by := map[string][]string{}
	for _, name := range names {
		entries, err := backedUp(ctx, set, document, name)
		if err != nil {
			a.log().WarnContext(ctx, "which databases the plan protects is not known", "plan", name, "error", err)
		}
		for _, entry := range entries {
			by[entry] = append(by[entry], name)
		}
	}
	return by
}

// backedUp are the databases that a plan backs up.
func backedUp(ctx context.Context, set *plans.Set, document *plans.Cluster, name string) ([]string, error) {
	checked, err := plans.CheckSteps(set, name, vocabulary())
	if err != nil {
		return nil, err
	}
	var all []string
	var errs []error
	for _, spec := range checked.Plan.Spec.Steps {
		if spec.Uses != "backup-databases" {
			continue
		}
		settings, err := checked.Expand(spec, "", plans.Facts{Cluster: document})
		step := &steps.BackupDatabases{}
		if err == nil {
			err = plans.Decode(settings, step)
		}
		if err != nil {
			errs = append(errs, fault.Newf("read settings", fault.Invalid, spec.ID, "what it backs up is known when it runs: %w", err))
			continue
		}
		entries, err := step.Items(ctx, &orchestrator.Run{Cluster: document})
		all, errs = append(all, entries...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

func (a *app) printDiscovered(all []discoveredDatabase) error {
	if len(all) == 0 {
		fmt.Fprintln(a.out, "No database was recognised. Those outside of the cluster, and those of other images, are not seen.")
		return nil
	}
	var unlisted, unprotected []string
	var proposed []plans.Database
	for _, d := range all {
		name := d.Namespace + "/" + d.Name
		fmt.Fprintf(a.out, "%s: %s, %s\n", name, d.Engine, d.Owner)
		for _, line := range [][2]string{
			{"pods", strings.Join(d.Pods, " ")}, {"selector", d.Selector}, {"image", d.Image}, {"known by", strings.Join(d.Reasons, ", ")},
			{"listed as", strings.Join(d.Databases, ", ")}, {"backed up by", strings.Join(d.Plans, ", ")},
		} {
			if line[1] != "" {
				fmt.Fprintf(a.out, "  %-13s %s\n", line[0], printable(line[1]))
			}
		}
		switch {
		case len(d.Databases) == 0:
			unlisted, proposed = append(unlisted, name), append(proposed, d.Proposed)
		case len(d.Plans) == 0:
			unprotected = append(unprotected, name)
		}
	}
	if len(unlisted) > 0 {
		fmt.Fprintf(a.out, "\nNo plan protects, since the Cluster document does not list them: %s\n", strings.Join(unlisted, ", "))
	}
	if len(unprotected) > 0 {
		fmt.Fprintf(a.out, "\nNo plan protects, since no backup-databases step takes them: %s\n", strings.Join(unprotected, ", "))
	}
	if len(proposed) == 0 {
		return nil
	}
	text, err := yaml.Marshal(map[string]any{"databases": proposed})
	if err != nil {
		return fault.New("propose databases", fault.Internal, "", err)
	}
	fmt.Fprintf(a.out, "\nTo add to spec of the Cluster document, when each was looked at:\n\n  %s", strings.ReplaceAll(strings.TrimSuffix(string(text), "\n"), "\n", "\n  ")+"\n")
	return nil
}
