package steps

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/providers/fault"
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Check looks for everything that is known to be missing, and reaches the place, where it is there yet.
func (s *RunCommand) Check(ctx context.Context, run *orchestrator.Run) error {
	for _, look := range []func() error{s.checkProgram, s.checkEnv, s.checkExits, s.checkPlace} {
		if err := look(); err != nil {
			return err
		}
	}
	if _, _, err := secret.ReadAll(s.SecretEnv); err != nil {
		return err
	}
	switch s.On {
	case OnMachine:
		return checkMachine(ctx, run, s.Machine)
	case InPod:
		return checkCluster(ctx, run)
	default:
		return s.checkRunner()
	}
}

func invalid(field, format string, args ...any) error {
	return fault.Newf("check "+field, fault.Invalid, "", format, args...)
}

func (s *RunCommand) checkProgram() error {
	if err := s.check(""); err != nil {
		return err
	}
	if s.Reverse != nil {
		return s.Reverse.check("undo.")
	}
	return nil
}

func (p Program) check(within string) error {
	switch {
	case (len(p.Command) > 0) == (p.Script != ""):
		return invalid(within+"command", "want exactly one of command and script")
	case len(p.Command) > 0 && p.Command[0] == "":
		return invalid(within+"command", "the program's name is empty")
	case len(p.Script) > maxScript:
		return invalid(within+"script", "it is longer than %d bytes: put it into a file", maxScript)
	case strings.ContainsRune(p.Script+strings.Join(p.Command, ""), 0):
		return invalid(within+"command", "it holds a zero byte")
	}
	return nil
}

func (s *RunCommand) checkEnv() error {
	var names []string
	for name, value := range s.Env {
		if _, twice := s.SecretEnv[name]; twice {
			return invalid("env", "%s stands in env and in secretEnv", name)
		}
		if strings.ContainsRune(value, 0) {
			return invalid("env", "%s holds a zero byte", name)
		}
		names = append(names, name)
	}
	for name := range s.SecretEnv {
		names = append(names, name)
	}
	for _, name := range names {
		if !envName.MatchString(name) {
			return invalid("env", "%q can't be the name of a variable", name)
		}
		if strings.HasPrefix(name, "MUSTER_") {
			return invalid("env", "%s: names that begin with MUSTER_ are Muster's own", name)
		}
	}
	return nil
}

func (s *RunCommand) checkExits() error {
	for _, code := range slices.Concat(s.ExpectExit, s.RetryExit) {
		if code < 0 || code > maxExit {
			return invalid("exit codes", "%d: want 0 to %d", code, maxExit)
		}
	}
	for _, code := range s.RetryExit {
		if slices.Contains(s.expected(), code) {
			return invalid("retryExit", "%d is expected already", code)
		}
	}
	if s.MaxOutput < 0 || s.MaxOutput > maxOutput {
		return invalid("maxOutput", "want 1 to %d bytes, or nothing for %d", maxOutput, defaultOutput)
	}
	return nil
}

// checkPlace wants the settings of the place that was chosen, and none of another.
func (s *RunCommand) checkPlace() error {
	switch s.On {
	case "", OnRunner, OnMachine, InPod:
	default:
		return invalid("on", "%q: want runner, machine or pod", s.On)
	}
	if (s.On == OnMachine) != (s.Machine != "") {
		return invalid("machine", "on: machine and the machine's name go together")
	}
	if (s.On == InPod) != (s.Pod != nil) {
		return invalid("pod", "on: pod and pod go together")
	}
	if s.Directory != "" && !path.IsAbs(s.Directory) {
		return invalid("directory", "%q: want an absolute path", s.Directory)
	}
	if s.Pod == nil {
		return nil
	}
	if (s.Pod.Name != "") == (s.Pod.Selector != "") {
		return invalid("pod", "want exactly one of name and selector")
	}
	if _, err := labels.Parse(s.Pod.Selector); err != nil {
		return invalid("pod.selector", "%v", err)
	}
	return nil
}

// checkRunner looks for programs that PATH should hold.
func (s *RunCommand) checkRunner() error {
	programs := []Program{s.Program}
	if s.Reverse != nil {
		programs = append(programs, *s.Reverse)
	}
	for _, p := range programs {
		if len(p.Command) == 0 {
			continue
		}
		if _, err := (shell.Runner{}).LookPath(p.Command[0], s.Env); err != nil {
			return err
		}
	}
	return nil
}

// checkMachine logs in and out again.
func checkMachine(ctx context.Context, run *orchestrator.Run, name string) error {
	m, access, err := commandMachine(run, name)
	if err != nil {
		return err
	}
	host, err := machine.Dial(ctx, m, access)
	if err != nil {
		return err
	}
	return host.Close()
}

// checkCluster reaches the cluster, unless the run has yet to build it.
func checkCluster(ctx context.Context, run *orchestrator.Run) error {
	if run.Machines != nil {
		return nil
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Ready(ctx); err != nil {
		return fmt.Errorf("the cluster does not answer: %w", err)
	}
	return nil
}
