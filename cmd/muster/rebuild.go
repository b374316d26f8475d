package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

const rebuildPlan = "rebuild"

type rebuildFlags struct {
	repository, keyFile, publicKey, point, machines, lostAt string
	files                                                   resultFiles
	yes                                                     bool
}

func (a *app) rebuildCommand() *cobra.Command {
	f := &rebuildFlags{}
	command := &cobra.Command{
		Use:   "rebuild",
		Short: "Bring a lost cluster back on blank machines: the one command of the worst day",
		Long: `Rebuild needs a repository, its key file and a list of blank machines, and nothing else: no
state, no inventory, no cluster. It shows what it is going to do and asks before it does it.
When it is interrupted, it goes on with: muster runs resume RUN`,
		Example: "  muster rebuild --repository s3://vault/prod?region=eu-west-1 --key-file muster.key --machines machines.yaml",
		Args:    exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.rebuild(command.Context(), f)
		},
	}
	flags := command.Flags()
	flags.StringVar(&f.repository, "repository", "", "the repository's URL")
	flags.StringVar(&f.keyFile, "key-file", "", "the repository's key file")
	flags.StringVar(&f.publicKey, "public-key", "", "pin the signing key: ed25519:…")
	flags.StringVar(&f.point, "point", "latest", "the recovery point: an ID, a unique prefix, or latest")
	flags.StringVar(&f.machines, "machines", "", "a file with a Machines document")
	flags.StringVar(&f.lostAt, "lost-at", "", "when the cluster was lost, RFC 3339; RPO is counted to it (default now)")
	f.files.register(command)
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	required(command, "repository", "key-file", "machines")
	return command
}

func (a *app) rebuild(ctx context.Context, f *rebuildFlags) error {
	lost := a.now().UTC()
	if f.lostAt != "" {
		var err error
		if lost, err = time.Parse(time.RFC3339, f.lostAt); err != nil {
			return usageError(fmt.Errorf("--lost-at %q: want RFC 3339, as 2026-01-02T15:04:05Z", f.lostAt))
		}
	}
	checked, err := rebuildDocuments(f)
	if err != nil {
		return err
	}
	manifest, err := a.announce(ctx, checked, f.point)
	if err != nil {
		return err
	}
	if err := a.confirm(f.yes); err != nil {
		return err
	}
	return a.watched(ctx, f.files, func(ctx context.Context, r *orchestrator.Runner) (*orchestrator.Report, error) {
		return r.Start(ctx, orchestrator.Request{ID: a.newRunID(rebuildPlan), Plan: checked, Point: manifest.ID, Lost: lost})
	})
}

func rebuildDocuments(f *rebuildFlags) (*plans.Checked, error) {
	set, err := plans.ReadFiles(f.machines)
	if err != nil {
		return nil, err
	}
	document, err := repositoryDocument(f.repository, f.keyFile, f.publicKey)
	if err != nil {
		return nil, err
	}
	set.Repositories[document.Metadata.Name] = document
	if err := addBuiltin(set, rebuildPlan); err != nil {
		return nil, err
	}
	return plans.Check(set, rebuildPlan, vocabulary())
}

// announce says what is going to happen to which machines.
func (a *app) announce(ctx context.Context, checked *plans.Checked, point string) (repository.Manifest, error) {
	opened, err := a.openRepository(ctx, checked.Repository)
	if err != nil {
		return repository.Manifest{}, err
	}
	defer opened.Close(ctx) // nothing was written
	found, err := opened.Point(ctx, point)
	if err != nil {
		return repository.Manifest{}, err
	}
	manifest, err := opened.Manifest(ctx, found)
	if err != nil || a.output == "json" {
		return manifest, err
	}
	if err := printManifest(a.out, manifest); err != nil {
		return manifest, err
	}
	fmt.Fprintln(a.out)
	if err := plans.Show(a.out, checked, vocabulary()); err != nil {
		return manifest, err
	}
	fmt.Fprintln(a.out, "\nEverything on these machines is going to be overwritten:")
	pairing, err := steps.Pairing(manifest, checked.Machines)
	for _, line := range pairing {
		fmt.Fprintln(a.out, "  "+line)
	}
	return manifest, err
}

func (a *app) confirm(yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprint(a.diagnostics, "\nGo on? Type yes: ")
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return fault.Newf("rebuild", fault.Invalid, "", "not confirmed; nothing was done")
	}
	return nil
}
