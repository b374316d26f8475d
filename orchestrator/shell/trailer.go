package shell

import (
	"bytes"
	"io"
	"slices"
	"strconv"
)

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
	_ = t.pass(len(t.held)) // an output takes everything
	return t.code, t.ended
}
