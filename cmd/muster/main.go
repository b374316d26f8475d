// Command muster brings a whole Kubernetes or OpenShift cluster back from a repository and a key.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	// What a capture holds is mostly buffers without pointers, which a collector passes over quickly: less than half of
	// Go's usual headroom costs little time and saves a hundred MB. GOGC says otherwise.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
	os.Exit(run())
}

// run is main with an exit code, so that tests can run the command in their own process.
func run() int {
	ctx, stop := interruptible()
	defer stop()
	app := &app{out: os.Stdout, diagnostics: os.Stderr, now: time.Now}
	err := app.command().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "muster: %v\n", err)
	}
	return exitCode(err)
}

// interruptible ends its context at the first Ctrl-C, so that the run stops cleanly and can be
// resumed; a second one ends the process at once.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// app holds what all verbs share: where to write, the clock, and the global flags.
type app struct {
	out         io.Writer
	diagnostics *os.File
	now         func() time.Time

	documents []string
	output    string
	verbose   bool
	state     stateFlags
	providers providerFlags
}

func (a *app) command() *cobra.Command {
	root := group("muster", "Bring a whole Kubernetes or OpenShift cluster back")
	root.Long = `Muster captures etcd, machines, attached disks and every API object of a cluster into
one recovery point, and rebuilds the cluster from nothing but a repository URL and a key.

On the worst day:  muster rebuild --repository URL --key-file F --machines machines.yaml`
	root.SilenceUsage, root.SilenceErrors = true, true
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		return oneOf("--output", a.output, "text", "json")
	}
	flags := root.PersistentFlags()
	flags.StringArrayVarP(&a.documents, "file", "f", nil, "documents to read: a file, or a folder of *.yaml (repeatable; default ./muster.yaml)")
	flags.StringVarP(&a.output, "output", "o", "text", "text or json")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "log what is done in detail to standard error")
	a.state.register(flags)
	a.providers.register(flags)
	root.AddCommand(
		a.initCommand(), a.planCommand(), a.runCommand(), a.runsCommand(),
		a.pointsCommand(), a.rebuildCommand(), a.replayCommand(), a.extractCommand(), a.rbacCommand(), a.providerCommand(), a.databaseCommand(), a.versionCommand(),
	)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	return root
}

func (a *app) log() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.diagnostics, &slog.HandlerOptions{Level: level}))
}

// group is a command that only holds others.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Help()
			}
			text := fmt.Sprintf("there is no command %q", command.CommandPath()+" "+args[0])
			if near := command.SuggestionsFor(args[0]); len(near) > 0 {
				text += ": did you mean " + strings.Join(near, " or ") + "?"
			}
			return usageError(errors.New(text))
		},
	}
}

// exactly wants n arguments.
func exactly(n int) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usageError(fmt.Errorf("%s takes %d arguments and got %d: %s", command.CommandPath(), n, len(args), command.UseLine()))
	}
}
