package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator/host"
	"github.com/musterdr/muster/providers"
)

// described is what `muster provider info` tells.
type described struct {
	providers.Info
	Program host.Installed    `json:"program"`
	Health  *providers.Health `json:"health,omitempty"`
}

func (a *app) providerInfoCommand() *cobra.Command {
	storage := ""
	command := &cobra.Command{
		Use:     "info NAME",
		Short:   "Show what a provider can do and how it is set up, and with --storage how its backend is",
		Example: "  muster provider info ceph\n  muster provider info ceph -f muster.yaml --storage fast",
		Args:    exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withHost(command.Context(), func(h *host.Host) error {
				answer, err := a.describe(command.Context(), h, args[0], storage)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return printJSON(a.out, answer)
				}
				return a.printDescribed(answer)
			})
		},
	}
	command.Flags().StringVar(&storage, "storage", "", "a backend under spec.storage of the documents: show its health")
	return command
}

func (a *app) describe(ctx context.Context, h *host.Host, name, storage string) (described, error) {
	found, err := h.Find(name)
	if err != nil {
		return described{}, err
	}
	answer := described{Program: found}
	if storage == "" {
		answer.Info, err = infoOf(ctx, h, name)
		return answer, err
	}
	spec, err := a.storageFor(name, storage)
	if err != nil {
		return described{}, err
	}
	p, err := h.Start(ctx, spec)
	if err != nil {
		return described{}, err
	}
	defer p.Close()
	if answer.Info, err = p.Info(ctx); err != nil {
		return described{}, err
	}
	health, err := p.Health(ctx)
	answer.Health = &health
	return answer, err
}

func (a *app) printDescribed(d described) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"Provider", d.Name + " " + d.Version}, {"Program", d.Program.Path}, {"SHA-256", d.Program.SHA256},
		{"Protocols", fmt.Sprint(d.Protocols)}, {"Drivers", spaced(d.Drivers)}, {"Capabilities", spaced(d.Capabilities)},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if d.Health != nil {
		a.printHealth(*d.Health)
	}
	var schema bytes.Buffer
	if json.Indent(&schema, d.Schema, "", "  ") == nil {
		fmt.Fprintf(a.out, "\nSettings, as a JSON Schema:\n%s\n", schema.String())
	}
	return nil
}

func (a *app) printHealth(h providers.Health) {
	state := "usable"
	if !h.Usable {
		state = "not usable"
	}
	fmt.Fprintf(a.out, "\nBackend %s %s: %s at %s\n", h.Fingerprint, h.Version, state, h.Now.Format(time.RFC3339))
	if h.Total >= 0 {
		fmt.Fprintf(a.out, "  %s free of %s\n", bytesText(h.Free), bytesText(h.Total))
	}
	for _, problem := range h.Problems {
		fmt.Fprintf(a.out, "  %s\n", problem)
	}
}
