package shell

import (
	"context"
	"fmt"
	"io"

	"github.com/musterdr/muster/providers/fault"
)

// Script is what runs, with its streams: exactly one of Text and Command.
type Script struct {
	Text    string   // for sh
	Command []string // a program and its arguments; no shell reads them
	// Directory is where it starts: on the runner default HOME, else what the login or the container gives.
	Directory string
	// Env holds variables, secrets among them: elsewhere than on the runner they travel over standard input.
	Env map[string]string
	// LeavesFirst says how a script in a pod is made to end: process by process, none before those that it waits for.
	// It is for scripts that end when a program of theirs fails; others could go on with their next command.
	LeavesFirst bool
	// Stdin is what the script reads; nil is empty. It is read no faster than the script does, but for what
	// pipes and connections hold. It may stay open when the script has ended: a read that is under way then
	// is not waited for, and what it gives is lost.
	//
	// A script sees the end of its input when Stdin ends, and also when the connection to its place breaks:
	// what has to be whole needs a mark of its own at its end.
	Stdin io.Reader
	// Stdout and Stderr take output, byte for byte, and may be slow: the script waits for them. Nil throws
	// away. They are written to at the same time, each by one goroutine, and never after Run has returned.
	Stdout, Stderr io.Writer
}

// Place is where scripts run. It is safe for concurrent use.
type Place interface {
	// Run returns the exit code when the script has ended by itself, whatever the code: 126 for a directory
	// that is not there and 127 for a program that is not, elsewhere than on the runner; 128 and the number
	// for a signal. Otherwise it returns an error. Nothing is tried again, and whoever does so has to know
	// that the script may have run, in part or as a whole:
	//
	//   - fault.Invalid: neither or both of Text and Command; on the runner also what the system can't run.
	//     It did not start.
	//   - fault.NotFound, fault.Denied: on the runner the program or the directory, in a pod the pod, its sh
	//     or the right to run in it; on a machine sudo. It did not start.
	//   - fault.Unsupported: the cluster is reached through a tunnel. It did not start.
	//   - fault.Transient: ctx ended, and so did the script's process group, which was asked first and then
	//     made to; or the connection broke, and the script's end is not known. The text says when processes
	//     may still run.
	//   - the error of Stdin, Stdout or Stderr: the script was ended because of it. On a machine one without
	//     a kind is wrapped as Transient.
	Run(ctx context.Context, script Script) (exit int, err error)
	// String is for people: "in pod shop/db-0", "on machine m", "on the runner host".
	String() string
}

func (s Script) check(p Place) error {
	if (s.Text == "") == (len(s.Command) == 0) {
		return fault.Newf("run script", fault.Invalid, fmt.Sprint(p), "want exactly one of a text and a command")
	}
	return nil
}
