package shell

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
)

// TestInputLeavesTheRest: after the text, a script elsewhere finds its own input, whichever shell is there
// and however it comes in.
func TestInputLeavesTheRest(t *testing.T) {
	const size = 300_000
	want, err := io.ReadAll(random(size))
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range [][]string{{"dash"}, {"bash"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(shell[0]); err != nil {
			t.Logf("no %s here", shell[0])
			continue
		}
		for name, script := range map[string]Script{
			"text":    {Text: "cat; echo \"$A\" >&2", Env: map[string]string{"A": "it's\n$B"}, Directory: "/"},
			"command": {Command: []string{"sh", "-c", "cat; echo \"$A\" >&2"}, Env: map[string]string{"A": "it's\n$B"}},
		} {
			for _, with := range []bool{true, false} {
				script.Stdin = nil
				if with {
					script.Stdin = bytes.NewReader(want)
				}
				text, reader := script.input()
				var out, said bytes.Buffer
				command := exec.Command(shell[0], append(shell[1:], "-c", reader+evaluate)...)
				command.Stdin, command.Stdout, command.Stderr = iotest.HalfReader(io.MultiReader(strings.NewReader(text), bytes.NewReader(want))), &out, &said
				err := command.Run()
				if err != nil || said.String() != "it's\n$B\n" || with && !bytes.Equal(out.Bytes(), want) || !with && out.Len() > 0 {
					t.Errorf("%s, %s, with input %v: %v, %d bytes, %q", shell[0], name, with, err, out.Len(), said.String())
				}
			}
		}
	}
}

// TestTrailer cuts a stream at every place.
func TestTrailer(t *testing.T) {
	const stream = "before mark-mark-\x00mark-042\nafter"
	for first := range len(stream) {
		for second := first; second < len(stream); second++ {
			var out bytes.Buffer
			trailer := &trailer{to: &out, mark: []byte("\x00mark-")}
			for _, part := range []string{stream[:first], stream[first:second], stream[second:]} {
				if n, err := io.WriteString(trailer, part); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if code, ended := trailer.close(); code != 42 || !ended || out.String() != "before mark-mark-after" {
				t.Fatalf("cut at %d and %d: %d, %v, %q", first, second, code, ended, out.String())
			}
		}
	}
}
