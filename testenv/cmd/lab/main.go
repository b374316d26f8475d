// Command lab makes real Kubernetes clusters on one Linux machine, loses them and cleans up.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/testenv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := &cobra.Command{Use: "lab", Short: "Real Kubernetes clusters on one Linux machine", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(build(), up(), down(), status(), kubeconfig(), execute(), sshConfig(), machine(), image(), inventory(), machinesFile())
	err := root.ExecuteContext(ctx)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

func build() *cobra.Command {
	return &cobra.Command{
		Use: "build", Short: "Build what labs need, once", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return testenv.Build(c.Context(), say) },
	}
}

func up() *cobra.Command {
	var config testenv.Config
	var disks []string
	c := &cobra.Command{
		Use: "up", Short: "Make a lab with a running cluster", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if config.Disks, err = parseDisks(disks); err != nil {
				return err
			}
			began := time.Now()
			if _, err := testenv.Up(c.Context(), config, say); err != nil {
				return err
			}
			say("lab %s is up after %s", config.Name, time.Since(began).Round(100*time.Millisecond))
			return nil
		},
	}
	c.Flags().StringVar(&config.Name, "name", "a", "the lab's name")
	c.Flags().IntVar(&config.ControlPlanes, "control-planes", 1, "1 or 3")
	c.Flags().IntVar(&config.Workers, "workers", 0, "number of workers")
	c.Flags().StringArrayVar(&disks, "disk", nil, "disk of the first worker: NAME=SIZE, as vdb=64M (repeatable)")
	return c
}

func parseDisks(specs []string) ([]testenv.Disk, error) {
	var disks []testenv.Disk
	for _, spec := range specs {
		name, size, ok := strings.Cut(spec, "=")
		factor := int64(1)
		if number, found := strings.CutSuffix(size, "M"); found {
			size, factor = number, 1<<20
		} else if number, found := strings.CutSuffix(size, "G"); found {
			size, factor = number, 1<<30
		}
		n, err := strconv.ParseInt(size, 10, 64)
		if !ok || err != nil || n <= 0 {
			return nil, fmt.Errorf("disk %q: want NAME=SIZE, as vdb=64M", spec)
		}
		disks = append(disks, testenv.Disk{Name: name, Bytes: n * factor})
	}
	return disks, nil
}

func down() *cobra.Command {
	var name string
	var all bool
	c := &cobra.Command{
		Use: "down", Short: "End a lab, or all, also after a crash", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if all {
				return testenv.DownAll(c.Context())
			}
			labs, err := testenv.List()
			if err != nil {
				return err
			}
			for _, l := range labs {
				if l.State.Name == name {
					return l.Down(c.Context())
				}
			}
			return fmt.Errorf("there is no lab %q", name)
		},
	}
	c.Flags().StringVar(&name, "name", "a", "the lab's name")
	c.Flags().BoolVar(&all, "all", false, "every lab")
	return c
}

func status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "List labs and machines", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			labs, err := testenv.List()
			for _, l := range labs {
				fmt.Print(l.Status())
			}
			return err
		},
	}
}

func kubeconfig() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "kubeconfig", Short: "Print the path of the administrator's kubeconfig", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := testenv.Open(c.Context(), name, say)
			if err != nil {
				return err
			}
			fmt.Println(l.KubeconfigFile())
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "a", "the lab's name")
	return c
}

func execute() *cobra.Command {
	return &cobra.Command{
		Use: "exec MACHINE -- COMMAND…", Short: "Run a command on a machine", Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := testenv.Find(args[0])
			if err != nil {
				return err
			}
			run, err := l.ExecCommand(c.Context(), args[0], args[1:]...)
			if err != nil {
				return err
			}
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			return run.Run()
		},
	}
}

func sshConfig() *cobra.Command {
	return &cobra.Command{
		Use: "ssh-config", Short: "Print an ssh_config for all machines", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			labs, err := testenv.List()
			for _, l := range labs {
				fmt.Print(l.SSHConfig())
			}
			return err
		},
	}
}

func machine() *cobra.Command {
	c := &cobra.Command{Use: "machine", Short: "Make and destroy machines"}
	var lab, address string
	var disks []string
	make := &cobra.Command{
		Use: "new NAME", Short: "Make a blank machine: base system, sshd, container runtime", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			parsed, err := parseDisks(disks)
			if err != nil {
				return err
			}
			l, err := testenv.Open(c.Context(), lab, say)
			if err != nil {
				return err
			}
			return l.NewMachine(c.Context(), testenv.Machine{Name: args[0], Address: address, Role: testenv.RoleBlank, Disks: parsed})
		},
	}
	make.Flags().StringVar(&lab, "lab", "a", "the lab it stands in")
	make.Flags().StringVar(&address, "address", "", "its address (default: the one the name had before, else a free one)")
	make.Flags().StringArrayVar(&disks, "disk", nil, "an attached disk: NAME=SIZE, as vdb=64M (repeatable)")
	destroy := &cobra.Command{
		Use: "destroy NAME…", Short: "End machines: processes, root filesystem, disks", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range args {
				l, err := testenv.Find(name)
				if err != nil {
					return err
				}
				if err := l.Destroy(c.Context(), name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.AddCommand(make, destroy)
	return c
}

func image() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Images that all machines hold: a stand-in for a registry"}
	c.AddCommand(&cobra.Command{
		Use: "load DIR|TAR NAME", Short: "Give an image to every machine, now and later", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return testenv.LoadImage(c.Context(), args[0], args[1])
		},
	})
	return c
}

func inventory() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "inventory", Short: "Print the Cluster document of the lab's cluster", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := testenv.Open(c.Context(), name, say)
			if err != nil {
				return err
			}
			fmt.Print(l.Inventory())
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "a", "the lab's name")
	return c
}

func machinesFile() *cobra.Command {
	var name, endpoint string
	c := &cobra.Command{
		Use: "machines-file MACHINE=ROLE[=REPLACES]…", Short: "Print a Machines document for blank machines", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := testenv.Open(c.Context(), name, say)
			if err != nil {
				return err
			}
			var targets []testenv.Target
			for _, arg := range args {
				parts := append(strings.SplitN(arg, "=", 3), "", "")
				targets = append(targets, testenv.Target{Machine: parts[0], Role: parts[1], Replaces: parts[2]})
			}
			document, err := l.MachinesDocument(endpoint, targets...)
			if err != nil {
				return err
			}
			fmt.Print(document)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "a", "the lab's name")
	c.Flags().StringVar(&endpoint, "endpoint", "", "the API server's host:port for all machines")
	return c
}
