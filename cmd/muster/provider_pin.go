package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator/host"
)

func (a *app) providerPinCommand() *cobra.Command {
	yes := false
	command := &cobra.Command{
		Use:   "pin NAME",
		Short: "Let a provider's program start, as it is now",
		Long: `Pin writes the SHA-256 of a provider's program into the pins file. Muster starts a program only when it is
pinned and has not changed since. Compare the digest with that of whoever built the program.`,
		Args: exactly(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withHost(command.Context(), func(h *host.Host) error { return a.pin(h, args[0], yes) })
		},
	}
	command.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return command
}

func (a *app) pin(h *host.Host, name string, yes bool) error {
	found, err := h.Find(name)
	if err != nil {
		return err
	}
	if a.output != "json" {
		fmt.Fprintf(a.out, "Program  %s\nSHA-256  %s\n", found.Path, found.SHA256)
	}
	if !found.Pinned {
		if err := a.agreed("pin provider", yes); err != nil {
			return err
		}
		if err := a.writePin(found); err != nil {
			return err
		}
		found.Pinned = true
	}
	if a.output == "json" {
		return printJSON(a.out, found)
	}
	fmt.Fprintf(a.out, "Pinned in %s.\n", a.providers.pins)
	return nil
}

func (a *app) writePin(found host.Installed) error {
	pins, err := host.ReadPins(a.providers.pins)
	if err != nil {
		return err
	}
	pins[found.Name] = found.SHA256
	return pins.Write(a.providers.pins)
}
