package testenv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
)

// command runs a program and returns its standard output; an error holds the end of its standard
// error.
func command(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	var out, diagnostics bytes.Buffer
	c := exec.CommandContext(ctx, name, args...)
	c.Stdin, c.Stdout, c.Stderr = stdin, &out, &diagnostics
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives a lab command that was killed
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, firstLine(strings.Join(args, " ")), err, tail(diagnostics.String()+out.String()))
	}
	return out.String(), nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func tail(text string) string {
	const limit = 2000
	if text = strings.TrimSpace(text); len(text) > limit {
		return "…" + text[len(text)-limit:]
	}
	return text
}
