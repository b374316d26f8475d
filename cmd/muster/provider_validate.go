package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator/host"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/fault"
)

// errNotConforming is returned when a provider breaks a promise of the contract.
var errNotConforming = errors.New("the provider does not keep the contract: the cases above say where")

// validation are the flags of `muster provider validate`.
type validation struct {
	settings, storage string
	size              int64
	zone              string
	parameters        map[string]string
	copyTarget        map[string]string
	only              []string
	yes               bool
}

func (a *app) providerValidateCommand() *cobra.Command {
	v := validation{}
	command := &cobra.Command{
		Use:   "validate NAME",
		Short: "Try a provider against a backend: does it keep every promise of the contract?",
		Long: `Validate runs the conformance suite against a backend: every call that the provider claims to be able to
do, repeated, cancelled, and with its process killed in the middle. It MAKES AND DELETES VOLUMES AND SNAPSHOTS
in the backend, all of them tagged, and removes them at the end. Use a pool or an account for tests.`,
		Example: `  muster provider validate ceph --settings ceph.yaml
  muster provider validate ceph -f muster.yaml --storage fast --yes`,
		Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			storage, err := a.toValidate(args[0], v)
			if err != nil {
				return err
			}
			return a.withHost(command.Context(), func(h *host.Host) error {
				return a.validate(command.Context(), h, storage, v)
			})
		},
	}
	flags := command.Flags()
	flags.StringVar(&v.settings, "settings", "", "file with the provider's settings, JSON or YAML")
	flags.StringVar(&v.storage, "storage", "", "a backend under spec.storage of the documents, instead of --settings")
	flags.Int64Var(&v.size, "size", 0, "bytes of a test volume (default 16 MiB)")
	flags.StringVar(&v.zone, "zone", "", "where volumes are made")
	flags.StringToStringVar(&v.parameters, "parameter", nil, "NAME=VALUE of volumes to make (repeatable)")
	flags.StringToStringVar(&v.copyTarget, "copy-target", nil, "NAME=VALUE of where snapshots are copied to (repeatable); without it copies are not tried")
	flags.StringSliceVar(&v.only, "only", nil, "run the cases whose names begin so (repeatable)")
	flags.BoolVarP(&v.yes, "yes", "y", false, "don't ask")
	return command
}

// toValidate is the backend that the flags name.
func (a *app) toValidate(provider string, v validation) (plans.Storage, error) {
	const op = "read storage settings"
	if (v.settings == "") == (v.storage == "") {
		return plans.Storage{}, usageError(errors.New("name the backend with --settings FILE or with --storage NAME"))
	}
	if v.storage != "" {
		return a.storageFor(provider, v.storage)
	}
	storage := plans.Storage{Name: provider, Provider: provider}
	raw, err := os.ReadFile(v.settings)
	if err != nil {
		return storage, fault.New(op, fault.NotFound, v.settings, err)
	}
	if yaml.Unmarshal(raw, &storage.Settings) != nil { // its error could show a line with a secret
		return storage, fault.Newf(op, fault.Invalid, v.settings, "it is not a map in JSON or YAML")
	}
	return storage, nil
}

func (a *app) validate(ctx context.Context, h *host.Host, storage plans.Storage, v validation) error {
	fmt.Fprintf(a.diagnostics, "This makes and deletes volumes and snapshots in the backend of %s, and kills the provider's process.\n", storage.Name)
	if err := a.agreed("validate provider", v.yes); err != nil {
		return err
	}
	first, err := h.Start(ctx, storage) // what is wrong with the settings is told once, by its kind
	if err != nil {
		return err
	}
	_ = first.Close()
	results := conformance.Record(v.config(ctx, h, storage), a.printResult)
	if a.output == "json" {
		if err := printJSON(a.out, results); err != nil {
			return err
		}
	} else {
		a.printOutcomes(results)
	}
	if !conformance.Passed(results) {
		return errNotConforming
	}
	return nil
}

func (v validation) config(ctx context.Context, h *host.Host, storage plans.Storage) conformance.Config {
	var mu sync.Mutex
	var last *host.Storage
	config := conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			s, err := h.Start(ctx, storage)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			last = s
			return s, nil
		},
		Unconfigured: func() (providers.Provider, error) { return h.Unconfigured(ctx, storage.Provider) },
		Kill: func() {
			mu.Lock()
			s := last
			mu.Unlock()
			s.Kill()
		},
		Size: v.size, Zone: v.zone, CopyTarget: v.copyTarget, Only: v.only,
	}
	if v.parameters != nil {
		config.Parameters = map[providers.Content]map[string]string{
			providers.ContentBlocks: v.parameters, providers.ContentFiles: v.parameters,
		}
	}
	return config
}

// printResult shows a case when it has ended; a suite takes minutes.
func (a *app) printResult(r conformance.Result) {
	if a.output == "json" {
		return
	}
	fmt.Fprintf(a.out, "%-5s %s\n", r.Outcome, r.Name)
	if r.Reason != "" && r.Outcome != conformance.Pass {
		fmt.Fprintf(a.out, "      %s\n", strings.ReplaceAll(r.Reason, "\n", "\n      "))
	}
}

func (a *app) printOutcomes(results []conformance.Result) {
	count := map[conformance.Outcome]int{}
	for _, r := range results {
		count[r.Outcome]++
	}
	fmt.Fprintf(a.out, "\n%d passed, %d failed, %d skipped\n", count[conformance.Pass], count[conformance.Fail], count[conformance.Skip])
}
