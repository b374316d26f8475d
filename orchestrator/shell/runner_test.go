package shell

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

func random(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{7}), n) }

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestRunnerPassesBytesOn(t *testing.T) {
	const size = 64 << 20
	want, got := sha256.New(), sha256.New()
	n := 0
	to := writerFunc(func(p []byte) (int, error) { n += len(p); return got.Write(p) })
	for _, script := range []Script{{Text: "cat"}, {Command: []string{"cat"}}} {
		want.Reset()
		got.Reset()
		n = 0
		script.Stdin, script.Stdout = io.TeeReader(random(size), want), to
		code, err := Runner{}.Run(t.Context(), script)
		if err != nil || code != 0 || n != size || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Errorf("%d, %v: %d bytes came back of %d", code, err, n, size)
		}
	}
}

// TestRunnerWaitsForSlowWriters: what a script has written is not lost because it ended meanwhile.
func TestRunnerWaitsForSlowWriters(t *testing.T) {
	t.Parallel()
	const size = 180_000 // more than a pipe and a buffer hold
	n, slow := 0, 2
	to := writerFunc(func(p []byte) (int, error) {
		if n += len(p); slow > 0 {
			slow--
			time.Sleep(2*processLinger + processLinger/2)
		}
		return len(p), nil
	})
	code, err := Runner{}.Run(t.Context(), Script{Text: "head -c 180000 /dev/zero; exit 3", Stdout: to})
	if err != nil || code != 3 || n != size {
		t.Errorf("%d, %v: %d bytes of %d", code, err, n, size)
	}
}

// TestRunnerReadsNoFasterThanItWrites blocks the output and looks how much of an endless input is taken.
func TestRunnerReadsNoFasterThanItWrites(t *testing.T) {
	t.Parallel()
	const most = 1 << 20 // two pipes, and the buffers of three who copy
	var taken atomic.Int64
	endless := readerFunc(func(p []byte) (int, error) { taken.Add(int64(len(p))); return len(p), nil })
	ctx, cancel := context.WithCancel(t.Context())
	stuck := writerFunc(func(p []byte) (int, error) {
		for before := int64(-1); before != taken.Load(); time.Sleep(200 * time.Millisecond) {
			before = taken.Load()
		}
		cancel()
		return len(p), nil
	})
	_, err := Runner{}.Run(ctx, Script{Text: "cat", Stdin: endless, Stdout: stuck})
	if !errors.Is(err, context.Canceled) || taken.Load() == 0 || taken.Load() > most {
		t.Errorf("%v: %d bytes were taken", err, taken.Load())
	}
}

// TestRunnerDoesNotWaitForStdin hangs when Run waits for an input that stays open.
func TestRunnerDoesNotWaitForStdin(t *testing.T) {
	for text, want := range map[string]int{"exit 5": 5, "read x; [ $x = go ] && exit 6": 6, "exec <&-; exit 7": 7} {
		from, to := io.Pipe()
		go func() { _, _ = io.WriteString(to, "go\n") }()
		code, err := Runner{}.Run(t.Context(), Script{Text: text, Stdin: from})
		if err != nil || code != want {
			t.Errorf("%s: %d, %v", text, code, err)
		}
		_ = from.Close()
	}
	// Nor for one that nobody reads.
	if code, err := (Runner{}).Run(t.Context(), Script{Text: "exit 8", Stdin: random(1 << 30)}); code != 8 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
}

func TestRunnerEndsWithItsStreams(t *testing.T) {
	after := filepath.Join(t.TempDir(), "after")
	broken := errors.New("broken")
	failing := writerFunc(func([]byte) (int, error) { return 0, broken })
	for name, script := range map[string]Script{
		"stdout":         {Text: "cat /dev/zero", Stdout: failing},
		"stderr":         {Text: "cat /dev/zero >&2", Stderr: failing},
		"stdin":          {Text: "cat >/dev/null; touch " + after, Stdin: io.MultiReader(random(1<<20), readerFunc(func([]byte) (int, error) { return 0, broken }))},
		"stdout's end":   {Text: "echo last", Stdout: failing},
		"stdout and out": {Text: "echo last; exec >&- 2>&-; sleep 1000", Stdout: failing},
	} {
		if _, err := (Runner{}).Run(t.Context(), script); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(after); !os.IsNotExist(err) {
		t.Errorf("a script took a failure for the end of its input: %v", err)
	}
}

func TestRunnerRefuses(t *testing.T) {
	for _, script := range []Script{{}, {Text: "true", Command: []string{"true"}}} {
		if _, err := (Runner{}).Run(t.Context(), script); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", script, err)
		}
	}
	_, err := Runner{}.Run(t.Context(), Script{Command: []string{"no-such-program"}, Stdin: readerFunc(func([]byte) (int, error) {
		t.Error("its input was read")
		return 0, io.EOF
	})})
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "no folder of PATH") {
		t.Error(err)
	}
}
