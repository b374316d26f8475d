package shell

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/providers/fault"
)

// Pod is a container. It must hold sh, and needs no other program.
type Pod struct {
	Client    *cluster.Client
	Namespace string
	Name      string
	Container string
}

const (
	// podEndWithin bounds the wait for processes in a pod that are told to end, once politely and once
	// not.
	podEndWithin = 3 * time.Second
	podEndPause  = 200 * time.Millisecond
)

// String is "in pod" and its namespace and name.
func (p Pod) String() string { return "in pod " + p.object() }

func (p Pod) object() string { return p.Namespace + "/" + p.Name }

func (p Pod) exec(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) error {
	return p.Client.Exec(ctx, cluster.PodCommand{
		Namespace: p.Namespace, Pod: p.Name, Container: p.Container,
		Argv: []string{"sh", "-c", script}, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	})
}

// Run keeps the container's own environment. The shell says itself how the program ended, since a
// connection that breaks can look like a good end; and its processes are ended by a call of their own,
// since nothing else ends them.
//
// Of a script that ends without reading an input that goes on, the API server sometimes does not tell the
// end until a write to it has timed out: Run then returns a minute later, with the right code.
func (p Pod) Run(ctx context.Context, script Script) (int, error) {
	if err := script.check(p); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, fault.New("run in pod", fault.Transient, p.object(), context.Cause(ctx))
	}
	text, reader := script.input()
	ctx, s := newStreams(ctx)
	defer s.end()
	trailer := &trailer{to: s.output(script.Stderr), mark: []byte("muster-exit-" + rand.Text() + " ")}
	leader := &machine.Leader{To: trailer}
	program := fmt.Sprintf("%s%s(%s)\nprintf '%s%%03d\\n' $? >&2", machine.Announce, reader, evaluate, trailer.mark)
	var stdin io.Reader = strings.NewReader(text)
	if script.Stdin != nil {
		stdin = io.MultiReader(stdin, s.input(script.Stdin))
	}
	connected, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var err, left error
	gone := make(chan struct{}) // closed when err is there
	go func() {
		defer close(gone)
		err = p.exec(connected, program, stdin, s.output(script.Stdout), leader)
	}()
	asked := false
	select {
	case <-gone:
	case <-ctx.Done():
		// The processes end before the connection does: else they would take its end for that of their input.
		within(podEndWithin, leader.Begun(), gone)
		asked, left = true, p.end(context.WithoutCancel(ctx), leader.Group(), script.LeavesFirst)
		cut()
		<-gone
		err = fault.New("run in pod", fault.Transient, p.object(), context.Cause(ctx))
	}
	code, byItself := trailer.close()
	failed := s.failure()
	if failed != nil {
		err = failed
	} else if byItself {
		return code, nil
	}
	if !asked {
		var exit *cluster.ExitError
		switch {
		case err == nil:
			err = fault.Newf("run in pod", fault.Transient, p.object(), "the connection ended before the command did")
		case failed == nil && errors.As(err, &exit):
			return exit.Code, nil // the shell was ended, or did not get its input
		}
		if !byItself {
			left = p.end(context.WithoutCancel(ctx), leader.Group(), script.LeavesFirst)
		}
	}
	if left != nil {
		return 0, fault.Newf("run in pod", fault.KindOf(err), p.object(), "%w; its processes may still run: %w", err, left)
	}
	return 0, err
}

// Leaves is a function for sh, muster_leaves. Whoever ends a group's leaves first leaves no process that was killed to
// the container's first one: PostgreSQL, where it is that, takes such a one for a crash of its own, and begins anew.
//
//go:embed leaves.sh
var Leaves string

// end ends a process group: it asks, waits, and then makes it end. Without a number nothing has begun. With leaves,
// each process ends before the one that waits for it, as long as the group lets itself be ended so.
func (p Pod) end(ctx context.Context, group string, leaves bool) error {
	if group == "" {
		return nil
	}
	if leaves {
		for _, signal := range []string{"TERM", "KILL"} {
			if p.endLeaves(ctx, signal, group) {
				return nil
			}
		}
	}
	asking, cancel := context.WithTimeout(ctx, podEndWithin)
	defer cancel()
	gone, err := p.signal(asking, "TERM", group)
	for !gone && err == nil {
		within(podEndPause, asking.Done(), nil)
		gone, err = p.signal(asking, "0", group)
	}
	if gone {
		return nil
	}
	killing, stop := context.WithTimeout(ctx, podEndWithin)
	defer stop()
	_, err = p.signal(killing, "KILL", group)
	return err
}

// endLeaves gives the leaves of a group a signal until it is gone, and reports whether it is.
func (p Pod) endLeaves(ctx context.Context, signal, group string) bool {
	ending, cancel := context.WithTimeout(ctx, podEndWithin)
	defer cancel()
	for ending.Err() == nil {
		err := p.exec(ending, Leaves+"leaves=$(muster_leaves "+group+")\n[ -n \"$leaves\" ] || exit 1\nkill -"+signal+" $leaves 2>/dev/null || :", nil, nil, nil)
		var exit *cluster.ExitError
		if errors.As(err, &exit) && exit.Code == 1 {
			return true
		}
		if err != nil {
			return false
		}
		within(podEndPause, ending.Done(), nil)
	}
	return false
}

// signal reports whether there is no such group any more. The form of the options is the one that the
// shells of busybox, Debian and bash all know.
func (p Pod) signal(ctx context.Context, signal, group string) (gone bool, err error) {
	err = p.exec(ctx, "kill -"+signal+" -"+group, nil, nil, nil)
	var exit *cluster.ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return true, nil
	}
	return false, err
}
