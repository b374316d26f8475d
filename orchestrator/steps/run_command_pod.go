package steps

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/providers/fault"
)

// PodChoice names a container. It must hold sh, and needs no other program.
type PodChoice struct {
	Namespace string `yaml:"namespace,omitempty"` // default "default"
	Name      string `yaml:"name,omitempty"`
	// Selector chooses the first ready pod, by name, with these labels: "app=db,role=primary".
	Selector string `yaml:"selector,omitempty"`
	// Container is by default the one that the pod names as its default, else its first.
	Container string `yaml:"container,omitempty"`
}

const (
	// podEndWithin bounds the wait for processes in a pod that are told to end, once politely and once
	// not.
	podEndWithin = 3 * time.Second
	podEndPause  = 200 * time.Millisecond
)

// podShell is a shell in a container.
type podShell struct {
	client    *cluster.Client
	namespace string
	pod       string
	container string
}

// runInPod runs in the pod of before, when it is still there, else in the one that the choice finds.
func runInPod(ctx context.Context, run *orchestrator.Run, choice PodChoice, before commandPlace, j job) (commandPlace, int, error) {
	client, err := clusterClient(ctx, run)
	if err != nil {
		return commandPlace{}, 0, err
	}
	defer client.Close()
	query := cluster.PodQuery{
		Namespace: cmp.Or(choice.Namespace, "default"), Name: cmp.Or(before.Pod, choice.Name), Selector: choice.Selector, Container: choice.Container,
	}
	pod, container, err := client.FindPod(ctx, query)
	if err != nil && choice.Name == "" && before.Pod != "" { // it has gone since
		query.Name = ""
		pod, container, err = client.FindPod(ctx, query)
	}
	if err != nil {
		return commandPlace{}, 0, err
	}
	place := commandPlace{On: InPod, Namespace: query.Namespace, Pod: pod, Container: container}
	code, err := podShell{client, query.Namespace, pod, container}.run(ctx, j)
	return place, code, err
}

func (p podShell) exec(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) error {
	return p.client.Exec(ctx, cluster.PodCommand{
		Namespace: p.namespace, Pod: p.pod, Container: p.container,
		Argv: []string{"sh", "-c", script}, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	})
}

// run keeps the container's own environment. The shell says itself how the program ended, since a
// connection that breaks can look like a good end; and its processes are ended by a call of their own,
// since nothing else ends them.
func (p podShell) run(ctx context.Context, j job) (int, error) {
	input, reader := j.input()
	trailer := &trailer{to: j.stderr, mark: []byte("muster-exit-" + rand.Text() + " ")}
	leader := &machine.Leader{To: trailer}
	script := fmt.Sprintf("%s%s(%s)\nprintf '%s%%03d\\n' $? >&2", machine.Announce, reader, evaluate, trailer.mark)
	err := p.exec(ctx, script, strings.NewReader(input), j.stdout, leader)
	if code, ended := trailer.close(); ended {
		return code, nil
	}
	var exit *cluster.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.Code, nil // the shell was ended, or did not get its input
	case err == nil:
		err = fault.Newf("run in pod", fault.Transient, p.namespace+"/"+p.pod, "the connection ended before the command did")
	}
	if leader.Group() == "" {
		return 0, err
	}
	if left := p.end(context.WithoutCancel(ctx), leader.Group()); left != nil {
		return 0, fault.Newf("run in pod", fault.KindOf(err), p.namespace+"/"+p.pod, "%w; its processes may still run: %w", err, left)
	}
	return 0, err
}

// end ends a process group: it asks, waits, and then makes it end.
func (p podShell) end(ctx context.Context, group string) error {
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

// signal reports whether there is no such group any more. The form of the options is the one that the
// shells of busybox, Debian and bash all know.
func (p podShell) signal(ctx context.Context, signal, group string) (gone bool, err error) {
	err = p.exec(ctx, "kill -"+signal+" -"+group, nil, nil, nil)
	var exit *cluster.ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return true, nil
	}
	return false, err
}

// trailer hands on a stream without a mark, and the three digits of an exit code after it, that stand
// somewhere in it.
type trailer struct {
	to    io.Writer
	mark  []byte
	held  []byte
	code  int
	ended bool
}

const trailerDigits = 4 // three and a line end

func (t *trailer) Write(p []byte) (int, error) {
	if t.ended {
		return t.to.Write(p)
	}
	t.held = append(t.held, p...)
	at := bytes.Index(t.held, t.mark)
	if at < 0 {
		return len(p), t.pass(len(t.held) - len(t.mark) + 1)
	}
	after := at + len(t.mark)
	if len(t.held) < after+trailerDigits {
		return len(p), t.pass(at)
	}
	code, err := strconv.Atoi(string(t.held[after : after+trailerDigits-1]))
	t.code, t.ended = code, err == nil
	rest := slices.Concat(t.held[:at], t.held[after+trailerDigits:])
	t.held = nil
	_, err = t.to.Write(rest)
	return len(p), err
}

// pass hands on the first bytes of what is held.
func (t *trailer) pass(n int) error {
	if n <= 0 {
		return nil
	}
	_, err := t.to.Write(t.held[:n])
	t.held = append(t.held[:0], t.held[n:]...)
	return err
}

// close hands on the rest, and reports whether the mark came and with which code.
func (t *trailer) close() (int, bool) {
	_ = t.pass(len(t.held)) // an excerpt takes everything
	return t.code, t.ended
}
