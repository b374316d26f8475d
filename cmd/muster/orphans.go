package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// spareFor is how young a snapshot must be to be spared, whatever the journal says: a run whose state is
// elsewhere may be about to seal it.
const spareFor = 24 * time.Hour

func (a *app) providerOrphansCommand() *cobra.Command {
	f := &repositoryFlags{}
	var older time.Duration
	command := &cobra.Command{
		Use: "orphans", Short: "List snapshots at storage backends that no recovery point needs", Args: exactly(0),
		Long: `Orphans lists the snapshots that muster made for the repository and that no recovery point of it
consists of, none is the base of the next capture, and no unfinished run may still seal. muster points
prune deletes them.`,
		RunE: func(command *cobra.Command, _ []string) error {
			return a.orphans(command.Context(), f, older, false)
		},
	}
	f.register(command)
	command.Flags().DurationVar(&older, "older-than", spareFor, "spare younger snapshots")
	return command
}

func (a *app) pointsPrune(f *repositoryFlags) *cobra.Command {
	var older time.Duration
	var yes bool
	command := &cobra.Command{
		Use: "prune", Short: "Delete snapshots at storage backends that no recovery point needs", Args: exactly(0),
		Long: `Prune says which snapshots it would delete, and deletes them with --yes: those that muster provider
orphans lists.`,
		RunE: func(command *cobra.Command, _ []string) error {
			return a.orphans(command.Context(), f, older, yes)
		},
	}
	command.Flags().DurationVar(&older, "older-than", spareFor, "spare younger snapshots")
	command.Flags().BoolVar(&yes, "yes", false, "really delete them")
	return command
}

// orphanAnswer is what both verbs print as JSON.
type orphanAnswer struct {
	Orphans []volume.Orphan `json:"orphans"`
	Deleted int             `json:"deleted"`
}

func (a *app) orphans(ctx context.Context, f *repositoryFlags, older time.Duration, remove bool) error {
	return a.withRepository(ctx, f, func(r *repository.Repository, _ *plans.Repository) error {
		source := &backends{app: a}
		defer source.close()
		all, err := a.documentBackends(ctx, source)
		if err != nil {
			return err
		}
		unfinished, err := a.unfinishedRuns(ctx)
		if err != nil {
			return err
		}
		search := volume.OrphanSearch{Repository: r, Backends: all, Unfinished: unfinished, Before: a.now().Add(-older)}
		answer := orphanAnswer{Orphans: []volume.Orphan{}}
		found, err := search.Find(ctx)
		if err != nil {
			return err
		}
		answer.Orphans = append(answer.Orphans, found...)
		var failed error
		if remove {
			answer.Deleted, failed = deleteOrphans(ctx, all, found)
		}
		return errors.Join(a.printOrphans(answer, remove), failed)
	})
}

// documentBackends are the storages of all Cluster documents that were read.
func (a *app) documentBackends(ctx context.Context, source *backends) ([]volume.Backend, error) {
	set, err := a.readDocuments()
	if err != nil {
		return nil, err
	}
	var all []volume.Backend
	for _, cluster := range set.Clusters {
		for _, storage := range cluster.Spec.Storage {
			provider, err := source.Provider(ctx, storage)
			if err != nil {
				return nil, err
			}
			all = append(all, volume.Backend{Storage: storage.Name, Provider: provider})
		}
	}
	if len(all) == 0 {
		return nil, fault.Newf("find orphans", fault.NotFound, "", "no Cluster document names a storage: name files with -f")
	}
	return all, nil
}

func (a *app) unfinishedRuns(ctx context.Context) (func(string) bool, error) {
	unfinished := map[string]bool{}
	err := a.withRunner(ctx, silent{}, func(r *orchestrator.Runner) error {
		runs, err := r.Runs(ctx)
		for _, run := range runs {
			unfinished[run.Run] = !run.Final()
		}
		return err
	})
	return func(run string) bool { return unfinished[run] }, err
}

func deleteOrphans(ctx context.Context, all []volume.Backend, orphans []volume.Orphan) (deleted int, _ error) {
	var failed []error
	for _, orphan := range orphans {
		for _, backend := range all {
			if backend.Storage != orphan.Storage {
				continue
			}
			if err := backend.Provider.DeleteSnapshot(ctx, orphan.Snapshot.Handle); err != nil {
				failed = append(failed, err)
				continue
			}
			deleted++
		}
	}
	return deleted, errors.Join(failed...)
}

func (a *app) printOrphans(answer orphanAnswer, removed bool) error {
	if a.output == "json" {
		return printJSON(a.out, answer)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STORAGE\tSNAPSHOT\tVOLUME\tTAKEN\tSIZE\tRUN")
	for _, o := range answer.Orphans {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", o.Storage, o.Snapshot.ID, o.Snapshot.VolumeID, o.Snapshot.Instant.Format(time.RFC3339), bytesText(o.Snapshot.Size), o.Run)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if removed {
		fmt.Fprintf(a.out, "%d of %d deleted.\n", answer.Deleted, len(answer.Orphans))
	} else if len(answer.Orphans) > 0 {
		fmt.Fprintln(a.out, "Nothing was deleted: muster points prune --yes does it.")
	}
	return nil
}
