package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/musterdr/muster/orchestrator/host"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// providerFlags say where providers' programs are, and which of them may start.
type providerFlags struct {
	folder string
	pins   string
}

func (p *providerFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&p.folder, "plugins", "", "folder of the providers' programs (default $MUSTER_PLUGINS, "+host.DefaultFolder+", or muster's own folder)")
	flags.StringVar(&p.pins, "pins", host.DefaultPins, "file with the SHA-256 of the programs that may start")
}

// plugins is the folder of providers' programs: the first that somebody named, or that is there.
func (p *providerFlags) plugins() string {
	if p.folder != "" {
		return p.folder
	}
	if folder := os.Getenv("MUSTER_PLUGINS"); folder != "" {
		return folder
	}
	if _, err := os.Stat(host.DefaultFolder); err == nil {
		return host.DefaultFolder
	}
	if self, err := os.Executable(); err == nil {
		if beside, err := filepath.Glob(filepath.Join(filepath.Dir(self), host.Prefix+"*")); err == nil && len(beside) > 0 {
			return filepath.Dir(self)
		}
	}
	return host.DefaultFolder
}

// providerHost is what starts providers; the caller closes it.
func (a *app) providerHost(ctx context.Context) (*host.Host, error) {
	folder, err := filepath.Abs(a.providers.plugins())
	if err != nil {
		return nil, fault.New("open plugin folder", fault.Internal, a.providers.plugins(), err)
	}
	pins, err := filepath.Abs(a.providers.pins)
	if err != nil {
		return nil, fault.New("read pins", fault.Internal, a.providers.pins, err)
	}
	return host.Open(ctx, host.Config{Folder: folder, Pins: pins, Log: a.log(), Now: a.now})
}

// withHost opens a host for one piece of work.
func (a *app) withHost(ctx context.Context, work func(*host.Host) error) error {
	h, err := a.providerHost(ctx)
	if err != nil {
		return err
	}
	defer h.Close()
	return work(h)
}

func (a *app) providerCommand() *cobra.Command {
	command := group("provider", "Storage backends: what is there, what it can do, and whether it keeps its promises")
	command.AddCommand(a.providerListCommand(), a.providerInfoCommand(), a.providerPinCommand(), a.providerValidateCommand(), a.providerInitCommand(), a.providerOrphansCommand())
	return command
}

// storageOf finds a backend in the documents by its name.
func (a *app) storageOf(name string) (plans.Storage, error) {
	set, err := a.readDocuments()
	if err != nil {
		return plans.Storage{}, err
	}
	var all []plans.Storage
	for _, cluster := range set.Clusters {
		all = append(all, cluster.Spec.Storage...)
	}
	for _, machines := range set.Machines {
		all = append(all, machines.Spec.Storage...)
	}
	var names []string
	for _, storage := range all {
		if storage.Name == name {
			return storage, nil
		}
		names = append(names, storage.Name)
	}
	return plans.Storage{}, fault.Newf("find storage", fault.NotFound, name, "the documents hold %q under spec.storage; name files with -f", strings.Join(names, ", "))
}

// storageFor is storageOf for a provider of a name.
func (a *app) storageFor(provider, name string) (plans.Storage, error) {
	storage, err := a.storageOf(name)
	if err == nil && storage.Provider != provider {
		err = fault.Newf("find storage", fault.Invalid, name, "its provider is %s, not %s", storage.Provider, provider)
	}
	return storage, err
}

// agreed asks whether to go on, unless the answer was given before.
func (a *app) agreed(op string, yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprint(a.diagnostics, "Go on? Type yes: ")
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return fault.Newf(op, fault.Invalid, "", "not confirmed; nothing was done (--yes confirms)")
	}
	return nil
}
