package steps

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
)

// What programs find where nothing else is set.
const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultLang = "C.UTF-8"
)

// runnerEnv is the environment of a program on the runner: nothing of the runner's own but these.
func runnerEnv(env map[string]string) map[string]string {
	out := map[string]string{"PATH": defaultPath, "HOME": "/", "LANG": defaultLang}
	for name := range out {
		if value := os.Getenv(name); value != "" {
			out[name] = value
		}
	}
	maps.Copy(out, env)
	return out
}

func runOnRunner(ctx context.Context, j job) (commandPlace, int, error) {
	env := runnerEnv(j.env)
	p := process{argv: j.Command, dir: j.directory, stdout: j.stdout, stderr: j.stderr}
	if j.Script != "" {
		p.argv = []string{"sh", "-c", j.Script}
	}
	if p.dir == "" {
		p.dir = env["HOME"]
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		p.env = append(p.env, name+"="+env[name])
	}
	name, _ := os.Hostname() // it is for people
	place := commandPlace{On: OnRunner, Machine: name}
	var err error
	if p.path, err = lookPath(p.argv[0], env["PATH"]); err != nil {
		return place, 0, err
	}
	code, err := p.run(ctx)
	return place, code, err
}

// commandMachine finds a machine: in a rebuild among the targets, else in the Cluster document.
func commandMachine(run *orchestrator.Run, name string) (plans.Machine, plans.SSH, error) {
	var machines []plans.Machine
	var access plans.SSH
	switch {
	case run.Machines != nil:
		machines, access = run.Machines.Spec.Machines, run.Machines.Spec.SSH
	case run.Cluster != nil:
		machines, access = run.Cluster.Spec.Machines, run.Cluster.Spec.SSH
	}
	m, err := findMachine(machines, name)
	return m, access, err
}

func runOnMachine(ctx context.Context, run *orchestrator.Run, name string, j job) (commandPlace, int, error) {
	place := commandPlace{On: OnMachine, Machine: name}
	m, access, err := commandMachine(run, name)
	if err != nil {
		return place, 0, err
	}
	host, err := machine.Dial(ctx, m, access)
	if err != nil {
		return place, 0, err
	}
	defer host.Close()
	input, reader := j.input()
	clean := "exec env -i PATH=" + defaultPath + ` HOME="$HOME" LANG=` + defaultLang + " sh -c "
	err = host.Run(ctx, machine.Command{
		Script: clean + machine.Quote(reader+evaluate), Stdin: strings.NewReader(input), Stdout: j.stdout, Stderr: j.stderr,
	})
	var exit *machine.ExitError
	if errors.As(err, &exit) {
		return place, exit.Code, nil
	}
	return place, 0, err
}
