package shell

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/musterdr/muster/orchestrator/machine"
)

// Machine is a machine behind an SSH connection, which stays the caller's to close. Scripts run as root.
type Machine struct{ Host *machine.Host }

// String is "on machine" and its name.
func (m Machine) String() string { return "on machine " + m.Host.Name() }

// Run gives the script a clean environment: PATH, HOME and LANG, and its own.
func (m Machine) Run(ctx context.Context, script Script) (int, error) {
	if err := script.check(m); err != nil {
		return 0, err
	}
	text, reader := script.input()
	var stdin io.Reader = strings.NewReader(text)
	if script.Stdin != nil {
		stdin = io.MultiReader(stdin, script.Stdin)
	}
	stderr := script.Stderr
	if stderr == nil {
		stderr = io.Discard // what a script says means nothing to the host
	}
	clean := "exec env -i PATH=" + defaultPath + ` HOME="$HOME" LANG=` + defaultLang + " sh -c "
	err := m.Host.Run(ctx, machine.Command{
		Script: clean + machine.Quote(reader+evaluate), Stdin: stdin, Stdout: script.Stdout, Stderr: stderr,
	})
	var exit *machine.ExitError
	if errors.As(err, &exit) {
		return exit.Code, nil
	}
	return 0, err
}
