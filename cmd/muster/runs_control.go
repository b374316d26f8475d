package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/state/journal"
)

// newCommand is what an operator asks, signed with who is logged in here.
func (a *app) newCommand(verb, step, reason string) journal.Command {
	suffix := make([]byte, 4)
	_, _ = rand.Read(suffix) // crypto/rand.Read never fails
	now := a.now().UTC()
	return journal.Command{
		ID:   now.Format("20060102T150405.000000000Z") + "-" + hex.EncodeToString(suffix),
		Verb: verb, Step: step, Reason: reason, By: whoami(), Time: now,
	}
}

func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// control hands a command to a run and says what became of it.
func (a *app) control(c *cobra.Command, run string, command journal.Command, done string) error {
	return a.withRunner(c.Context(), silent{}, func(r *orchestrator.Runner) error {
		if err := r.Command(c.Context(), run, command); err != nil {
			return err
		}
		fmt.Fprintf(a.out, done+"\n", run)
		return nil
	})
}

func reasonFlag(c *cobra.Command, reason *string) {
	c.Flags().StringVar(reason, "reason", "", "why; it is journaled")
}

func (a *app) runsPause() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "pause RUN", Short: "Finish what runs and start nothing new, until the run is resumed", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.control(c, args[0], a.newCommand(orchestrator.VerbPause, "", reason), "it is going to pause; go on with: muster runs resume %s")
		},
	}
	reasonFlag(c, &reason)
	return c
}

func (a *app) runsCancel() *cobra.Command {
	var reason string
	var undo bool
	c := &cobra.Command{
		Use: "cancel RUN", Short: "End a run for good; what runs is interrupted", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			verb, done := orchestrator.VerbCancel, "cancelled: see muster runs show %s"
			if undo {
				verb, done = orchestrator.VerbUndo, "cancelled, and what it did is taken back: see muster runs show %s"
			}
			return a.control(c, args[0], a.newCommand(verb, "", reason), done)
		},
	}
	reasonFlag(c, &reason)
	c.Flags().BoolVar(&undo, "undo", false, "also take back what the run did, newest first")
	return c
}

func (a *app) runsRetry() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "retry RUN STEP", Short: "Try a failed step again", Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.control(c, args[0], a.newCommand(orchestrator.VerbRetry, args[1], reason),
				"it is tried again by the process that works on the run, else with: muster runs resume %s")
		},
	}
	reasonFlag(c, &reason)
	return c
}

func (a *app) runsSkip() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "skip RUN STEP --reason TEXT", Short: "Count a step as done without doing it; the run is not complete then", Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.control(c, args[0], a.newCommand(orchestrator.VerbSkip, args[1], reason), "skipped; go on with: muster runs resume %s")
		},
	}
	reasonFlag(c, &reason)
	required(c, "reason")
	return c
}

func (a *app) runsDecide(verb, short string) *cobra.Command {
	var as, comment string
	var values []string
	c := &cobra.Command{
		Use: verb + " RUN STEP --as ROLE", Short: short, Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			command := a.newCommand(verb, args[1], comment)
			command.As = as
			for _, value := range values {
				name, text, ok := strings.Cut(value, "=")
				if !ok || name == "" {
					return usageError(fmt.Errorf("--set %q: want NAME=VALUE", value))
				}
				if command.Values == nil {
					command.Values = map[string]any{}
				}
				command.Values[name] = text
			}
			return a.control(c, args[0], command, "journaled: see muster runs show %s")
		},
	}
	c.Flags().StringVar(&as, "as", "", "the role that decides")
	c.Flags().StringVar(&comment, "comment", "", "why; it is journaled")
	c.Flags().StringArrayVar(&values, "set", nil, "a value that the step asks for: NAME=VALUE (repeatable)")
	required(c, "as")
	return c
}
