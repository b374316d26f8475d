package main

import (
	"bufio"
	"context"
	"errors"
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
	repository, keyFile, publicKey, point, machines, lostAt, report string
	yes                                                             bool
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
		Args:    cobra.NoArgs,
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
	flags.StringVar(&f.report, "report", "", "also write the final report to this file, as JSON")
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
	display := newDisplay(a)
	return a.withRunner(ctx, display, func(r *orchestrator.Runner) error {
		report, err := r.Start(ctx, orchestrator.Request{ID: a.newRunID(rebuildPlan), Plan: checked, Point: manifest.ID})
		display.done()
		if report == nil {
			return err
		}
		result := newRebuildResult(report, manifest, lost)
		if printed := errors.Join(a.printRebuild(result), writeReport(f.report, result)); printed != nil {
			return errors.Join(err, printed)
		}
		if err == nil && !report.Complete() {
			return errIncomplete
		}
		return err
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
	defer opened.Close(ctx) //nolint:errcheck // nothing was written
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

// rebuildResult is a rebuild's final report.
type rebuildResult struct {
	*orchestrator.Report
	RPOSeconds float64 `json:"rpoSeconds"` // age of the recovery point at the moment of loss
	RTOSeconds float64 `json:"rtoSeconds"` // from the start until verification ended
	Verdict    string  `json:"verdict"`    // complete | incomplete
}

func newRebuildResult(report *orchestrator.Report, manifest repository.Manifest, lost time.Time) rebuildResult {
	result := rebuildResult{Report: report, RPOSeconds: lost.Sub(manifest.Instant).Seconds(), RTOSeconds: report.Seconds, Verdict: "incomplete"}
	if report.Complete() {
		result.Verdict = "complete"
	}
	return result
}

func (a *app) printRebuild(result rebuildResult) error {
	if a.output == "json" {
		return printJSON(a.out, result)
	}
	if err := printReport(a.out, result.Report); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\nRPO %s   RTO %s   verdict: %s\n", secondsText(result.RPOSeconds), secondsText(result.RTOSeconds), result.Verdict)
	return nil
}

func writeReport(path string, result rebuildResult) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return fault.New("write report", fault.Denied, path, err)
	}
	return errors.Join(printJSON(f, result), f.Close())
}
