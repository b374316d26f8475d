package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/providers/fault"
)

// Action holds one program still: Pre begins it and Post ends it, each a script for the container's sh.
type Action struct {
	Namespace, Pod, Container string
	Pre, Post                 string
	// Within bounds how long the program is held still, whatever becomes of Muster: a watchdog in the
	// container runs Post when it is over.
	Within time.Duration
}

// Freeze holds a mounted filesystem still; the container must hold fsfreeze and may use it.
func Freeze(namespace string, m Mount, within time.Duration) Action {
	at := "'" + strings.ReplaceAll(m.Path, "'", `'\''`) + "'"
	return Action{Namespace: namespace, Pod: m.Pod, Container: m.Container, Pre: "fsfreeze -f " + at, Post: "fsfreeze -u " + at, Within: within}
}

// Executor runs programs in containers: a *cluster.Client.
type Executor interface {
	Exec(ctx context.Context, command cluster.PodCommand) error
}

// Still is a set of programs that are held still.
type Still struct {
	pods Executor
	held []held
}

type held struct {
	Action
	watchdog int // the process in the container that ends the action by itself
}

// Quiesce begins the actions one after the other. When one fails, those begun before are ended again. The
// caller must call Release.
func Quiesce(ctx context.Context, pods Executor, actions []Action) (*Still, error) {
	still := &Still{pods: pods}
	for _, action := range actions {
		watchdog, err := still.begin(ctx, action)
		if watchdog > 0 {
			still.held = append(still.held, held{action, watchdog})
		}
		if err != nil {
			return nil, errors.Join(err, still.Release(ctx))
		}
	}
	return still, nil
}

// begin starts the watchdog first: from the moment at which anything can be held still, something ends it.
func (s *Still) begin(ctx context.Context, action Action) (int, error) {
	script := fmt.Sprintf("(sleep %d\n%s\n) </dev/null >/dev/null 2>&1 &\necho watchdog $!\n(\n%s\n) >&2",
		int(action.Within.Seconds()), action.Post, action.Pre)
	out, err := s.run(ctx, action, script)
	fields := strings.Fields(out)
	if len(fields) < 2 || fields[0] != "watchdog" {
		return 0, errors.Join(err, fault.Newf("quiesce", fault.Transient, action.subject(), "the watchdog did not start"))
	}
	watchdog, convErr := strconv.Atoi(fields[1])
	return watchdog, errors.Join(err, convErr)
}

// Release ends every action, newest first, also after ctx has ended. An action whose time was over
// before is fault.Transient: what was captured meanwhile was not held still all the time.
func (s *Still) Release(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var failed []error
	for i := len(s.held) - 1; i >= 0; i-- {
		action := s.held[i]
		limited, cancel := context.WithTimeout(ctx, action.Within+releaseWithin)
		out, err := s.run(limited, action.Action, fmt.Sprintf("kill %d 2>/dev/null && echo in-time\n(\n%s\n) >&2", action.watchdog, action.Post))
		cancel()
		switch {
		case !strings.Contains(out, "in-time"):
			failed = append(failed, fault.Newf("quiesce", fault.Transient, action.subject(), "its time of %s was over before the capture's instant; allow more with quiesce.within", action.Within))
		case err != nil:
			failed = append(failed, err)
		}
	}
	s.held = nil
	return errors.Join(failed...)
}

// releaseWithin bounds one Post, beside the watchdog's time after which it has run anyway.
const releaseWithin = 15 * time.Second

func (s *Still) run(ctx context.Context, action Action, script string) (string, error) {
	var stdout, stderr bytes.Buffer
	err := s.pods.Exec(ctx, cluster.PodCommand{
		Namespace: action.Namespace, Pod: action.Pod, Container: action.Container,
		Argv: []string{"sh", "-c", script}, Stdout: &stdout, Stderr: &stderr,
	})
	var exit *cluster.ExitError
	if errors.As(err, &exit) {
		err = fault.Newf("quiesce", fault.Invalid, action.subject(), "the script ended with %d: %s", exit.Code, lastLine(stderr.String()))
	}
	return stdout.String(), err
}

func (a Action) subject() string { return a.Namespace + "/" + a.Pod }

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	text = text[strings.LastIndexByte(text, '\n')+1:]
	return text[:min(len(text), 200)]
}
