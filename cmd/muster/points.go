package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// repositoryFlags name a repository: by document, or by URL and key file.
type repositoryFlags struct {
	name, keyFile, publicKey string
}

func (f *repositoryFlags) register(command *cobra.Command) {
	flags := command.PersistentFlags()
	flags.StringVar(&f.name, "repository", "", "a repository's URL, or the name of a Repository document (default: the only one)")
	flags.StringVar(&f.keyFile, "key-file", "", "the key file, when --repository is a URL")
	flags.StringVar(&f.publicKey, "public-key", "", "pin the signing key: ed25519:…")
}

// withRepository opens the repository that the flags name.
func (a *app) withRepository(ctx context.Context, f *repositoryFlags, work func(*repository.Repository, *plans.Repository) error) error {
	document, err := a.findRepository(f)
	if err != nil {
		return err
	}
	opened, err := a.openRepository(ctx, document)
	if err != nil {
		return err
	}
	return errors.Join(work(opened, document), opened.Close(ctx))
}

func (a *app) findRepository(f *repositoryFlags) (*plans.Repository, error) {
	if f.keyFile != "" {
		return repositoryDocument(f.name, f.keyFile, f.publicKey)
	}
	if strings.Contains(f.name, "://") {
		return nil, fault.Newf("choose repository", fault.Invalid, f.name, "a URL needs its key file: --key-file FILE")
	}
	set, err := a.readDocuments()
	if err != nil {
		return nil, err
	}
	return pick("Repository", "--repository", f.name, set.Repositories)
}

func (a *app) pointsCommand() *cobra.Command {
	f := &repositoryFlags{}
	command := group("points", "List, show, verify and delete recovery points")
	f.register(command)
	command.AddCommand(a.pointsList(f), a.pointsShow(f), a.pointsVerify(f), a.pointsDelete(f), a.pointsRetain(f), a.pointsMaintain(f), a.pointsPrune(f), a.pointsGraph(f))
	return command
}

func (a *app) pointsList(f *repositoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List recovery points, newest first", Args: exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withRepository(command.Context(), f, func(r *repository.Repository, _ *plans.Repository) error {
				points, err := r.Points(command.Context())
				if err != nil {
					return err
				}
				if a.output == "json" {
					return printJSON(a.out, points)
				}
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "POINT\tCLUSTER\tINSTANT\tFILES\tSIZE")
				for _, p := range points {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", p.ID, p.Cluster, p.Instant.Format(time.RFC3339), p.Files, bytesText(p.Bytes))
				}
				return w.Flush()
			})
		},
	}
}

func (a *app) pointsShow(f *repositoryFlags) *cobra.Command {
	var breakGlass bool
	command := &cobra.Command{
		Use: "show POINT", Short: "Show a recovery point's manifest, or how to bring it back by hand",
		Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withPoint(command.Context(), f, args[0], func(r *repository.Repository, d *plans.Repository, p repository.Point) error {
				manifest, err := r.Manifest(command.Context(), p)
				if err != nil {
					return err
				}
				if breakGlass {
					return printBreakGlass(a.out, manifest, p, d, machine.DefaultKeep())
				}
				if a.output == "json" {
					return printJSON(a.out, manifest)
				}
				return printManifest(a.out, manifest)
			})
		},
	}
	command.Flags().BoolVar(&breakGlass, "break-glass", false, "print the commands that bring this point back with kopia, etcdutl, tar and kubectl alone")
	return command
}

func (a *app) pointsVerify(f *repositoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "verify POINT", Short: "Read every byte of a recovery point back and compare digests",
		Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withPoint(command.Context(), f, args[0], func(r *repository.Repository, _ *plans.Repository, p repository.Point) error {
				report, err := r.Verify(command.Context(), p, func(int64, int64) {})
				if err != nil {
					return err
				}
				if a.output == "json" {
					return printJSON(a.out, report)
				}
				fmt.Fprintf(a.out, "%s: %d files, %s read back, every digest as in the manifest.\n", p.ID, report.Files, bytesText(report.Bytes))
				return nil
			})
		},
	}
}

func (a *app) pointsDelete(f *repositoryFlags) *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use: "delete POINT", Short: "Delete a recovery point", Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withPoint(command.Context(), f, args[0], func(r *repository.Repository, _ *plans.Repository, p repository.Point) error {
				if args[0] != p.ID {
					return fault.Newf("delete recovery point", fault.Invalid, args[0], "give the whole ID to delete it: %s", p.ID)
				}
				if !yes {
					return fault.Newf("delete recovery point", fault.Invalid, p.ID, "this cannot be taken back; confirm with --yes")
				}
				return r.Delete(command.Context(), p)
			})
		},
	}
	command.Flags().BoolVar(&yes, "yes", false, "really delete it")
	return command
}

func (a *app) pointsRetain(f *repositoryFlags) *cobra.Command {
	var dryRun bool
	var cluster string
	command := &cobra.Command{
		Use: "retain", Short: "Delete what the Repository document's retention no longer keeps", Args: exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withRepository(command.Context(), f, func(r *repository.Repository, d *plans.Repository) error {
				decisions, err := r.Retain(command.Context(), cluster, d.Spec.Retention, dryRun)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return printJSON(a.out, decisions)
				}
				for _, decision := range decisions {
					fmt.Fprintln(a.out, decision)
				}
				return nil
			})
		},
	}
	command.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be deleted")
	command.Flags().StringVar(&cluster, "cluster", "", "the cluster whose points are looked at")
	required(command, "cluster")
	return command
}

func (a *app) pointsMaintain(f *repositoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "maintain", Short: "Remove content that no recovery point refers to any more", Args: exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withRepository(command.Context(), f, func(r *repository.Repository, _ *plans.Repository) error {
				return r.Maintain(command.Context())
			})
		},
	}
}

func (a *app) withPoint(ctx context.Context, f *repositoryFlags, id string,
	work func(*repository.Repository, *plans.Repository, repository.Point) error) error {
	return a.withRepository(ctx, f, func(r *repository.Repository, d *plans.Repository) error {
		point, err := r.Point(ctx, id)
		if err != nil {
			return err
		}
		return work(r, d, point)
	})
}
