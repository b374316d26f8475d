package steps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/musterdr/muster/orchestrator/shell"
)

// elsewhere are a machine and a pod of the lab.
func elsewhere(t *testing.T) map[string]shell.Place {
	t.Helper()
	w := inLab(t, needLab(t))
	waitForBox(t, w)
	client, err := clusterClient(t.Context(), w.Run)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return map[string]shell.Place{
		"machine": shell.Machine{Host: onMachine(t, w)},
		"pod":     shell.Pod{Client: client, Namespace: "default", Name: "box", Container: "second"},
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestShellElsewhereHasInput: bytes pass unchanged in both directions; an input that stays open or fails
// ends nothing wrongly. It hangs when one is waited for.
func TestShellElsewhereHasInput(t *testing.T) {
	broken := errors.New("broken")
	for name, place := range elsewhere(t) {
		t.Run(name, func(t *testing.T) {
			const size = 16 << 20
			run := func(script shell.Script) (int, error) {
				script.Env = map[string]string{"SECRET": "it's one"}
				return place.Run(t.Context(), script)
			}
			want, got := sha256.New(), sha256.New()
			var said bytes.Buffer
			code, err := run(shell.Script{
				Text: `cat; echo "$SECRET" >&2; exit 3`, Stdin: io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{7}), size), want), Stdout: got, Stderr: &said,
			})
			if code != 3 || err != nil || !bytes.Equal(want.Sum(nil), got.Sum(nil)) || said.String() != "it's one\n" {
				t.Errorf("%d, %v, %x of %x, %q", code, err, got.Sum(nil), want.Sum(nil), said.String())
			}
			from, to := io.Pipe()
			defer from.Close()
			go func() { _, _ = io.WriteString(to, "go\n") }()
			if code, err = run(shell.Script{Text: "read x; [ $x = go ] && exit 4", Stdin: from}); code != 4 || err != nil {
				t.Errorf("an input that stays open: %d, %v", code, err)
			}
			endless := readerFunc(func(p []byte) (int, error) { return len(p), nil })
			if code, err = run(shell.Script{Command: []string{"head", "-c", "3"}, Stdin: endless}); code != 0 || err != nil {
				t.Errorf("an input that is not read to its end: %d, %v", code, err)
			}
			failing := io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { return 0, broken }))
			if _, err = run(shell.Script{Text: "rm -f /tmp/whole; cat; touch /tmp/whole", Stdin: failing}); !errors.Is(err, broken) {
				t.Errorf("an input that fails: %v", err)
			}
			if code, err = run(shell.Script{Text: "[ ! -e /tmp/whole ]"}); code != 0 || err != nil {
				t.Errorf("a failure was taken for the end of the input: %d, %v", code, err)
			}
		})
	}
}

// TestShellElsewhereEndsWithItsStreams: a script whose output nobody takes is ended, and one that is
// cancelled does not take that for the end of its input.
func TestShellElsewhereEndsWithItsStreams(t *testing.T) {
	broken := errors.New("broken")
	for name, place := range elsewhere(t) {
		t.Run(name, func(t *testing.T) {
			failing := writerFunc(func([]byte) (int, error) { return 0, broken })
			if _, err := place.Run(t.Context(), shell.Script{Text: "cat /dev/zero", Stdout: failing}); !errors.Is(err, broken) {
				t.Errorf("nobody takes its output: %v", err)
			}
			if _, err := place.Run(t.Context(), shell.Script{Text: "echo last", Stdout: failing}); !errors.Is(err, broken) {
				t.Errorf("nobody takes its last output: %v", err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			from, to := io.Pipe()
			defer from.Close()
			defer to.Close()
			begun := writerFunc(func(p []byte) (int, error) { cancel(broken); return len(p), nil })
			_, err := place.Run(ctx, shell.Script{Text: "rm -f /tmp/whole; echo begun; cat; touch /tmp/whole", Stdin: from, Stdout: begun})
			if !errors.Is(err, broken) {
				t.Errorf("cancelled: %v", err)
			}
			if code, err := place.Run(t.Context(), shell.Script{Text: "[ ! -e /tmp/whole ]"}); code != 0 || err != nil {
				t.Errorf("it went on: %d, %v", code, err)
			}
		})
	}
}
