package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator/host"
	"github.com/musterdr/muster/providers"
)

// listed is one line of `muster provider list`.
type listed struct {
	host.Installed
	Version      string                 `json:"version,omitempty"`
	Protocols    []int                  `json:"protocols,omitempty"`
	Capabilities []providers.Capability `json:"capabilities,omitempty"`
	Drivers      []string               `json:"drivers,omitempty"`
}

func (a *app) providerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the providers in the plugin folder",
		Long:  "List shows the programs in the plugin folder. Those that are pinned are started and asked what they can do.",
		Args:  exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withHost(command.Context(), func(h *host.Host) error {
				installed, err := h.List()
				if err != nil {
					return err
				}
				all := make([]listed, 0, len(installed))
				for _, one := range installed {
					all = append(all, look(command.Context(), h, one))
				}
				if a.output == "json" {
					return printJSON(a.out, all)
				}
				return a.printProviders(all)
			})
		},
	}
}

// look asks a program what it is, when it may start. Why it may not stands in the line.
func look(ctx context.Context, h *host.Host, installed host.Installed) listed {
	line := listed{Installed: installed}
	if installed.Problem != "" {
		return line
	}
	info, err := infoOf(ctx, h, installed.Name)
	if err != nil {
		line.Problem = err.Error()
		return line
	}
	line.Version, line.Protocols, line.Capabilities, line.Drivers = info.Version, info.Protocols, info.Capabilities, info.Drivers
	return line
}

func infoOf(ctx context.Context, h *host.Host, name string) (providers.Info, error) {
	p, err := h.Unconfigured(ctx, name)
	if err != nil {
		return providers.Info{}, err
	}
	defer p.Close()
	return p.Info(ctx)
}

func (a *app) printProviders(all []listed) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROVIDER\tVERSION\tPINNED\tCAPABILITIES")
	for _, p := range all {
		pinned := "no"
		if p.Pinned {
			pinned = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, p.Version, pinned, spaced(p.Capabilities))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range all {
		if p.Problem != "" {
			fmt.Fprintf(a.out, "\n%s: %s\n", p.Name, p.Problem)
		}
	}
	return nil
}

func spaced[S ~string](all []S) string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = string(one)
	}
	return strings.Join(texts, " ")
}
