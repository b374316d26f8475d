package steps

import (
	"fmt"
	"strings"

	"github.com/musterdr/muster/orchestrator/secret"
)

// excerpt keeps the first and the last part of a stream: what a program begins with, and why it ended.
type excerpt struct {
	limit int
	total int64
	head  []byte // the first half of limit
	tail  []byte // what follows; its end counts
}

func (e *excerpt) Write(p []byte) (int, error) {
	n := len(p)
	e.total += int64(n)
	if room := e.limit/2 - len(e.head); room > 0 {
		taken := min(room, len(p))
		e.head, p = append(e.head, p[:taken]...), p[taken:]
	}
	keep := e.limit - e.limit/2
	e.tail = append(e.tail, p...)
	if len(e.tail) > 2*keep+4096 { // not with every write: it copies
		e.tail = append(e.tail[:0], e.tail[len(e.tail)-keep:]...)
	}
	return n, nil
}

func (e *excerpt) cut() bool { return e.total > int64(e.limit) }

// String says in its middle how much was left out.
func (e *excerpt) String() string {
	if !e.cut() {
		return strings.ToValidUTF8(string(e.head)+string(e.tail), "\uFFFD")
	}
	tail := e.tail[len(e.tail)-(e.limit-e.limit/2):]
	left := e.total - int64(len(e.head)+len(tail))
	return strings.ToValidUTF8(fmt.Sprintf("%s\n[%d bytes left out here]\n%s", e.head, left, tail), "\uFFFD")
}

// capture is an excerpt of a stream without secrets. Bytes count as they are once secrets are hidden.
type capture struct {
	*secret.Writer
	kept *excerpt
}

func newCapture(limit int, mask *secret.Mask) capture {
	kept := &excerpt{limit: limit}
	return capture{mask.Writer(kept), kept}
}

// lastLines is the end of a text as one line, for errors.
func lastLines(text string) string {
	const lines, bytes = 3, 600
	all := strings.Split(strings.TrimSpace(text), "\n")
	joined := strings.Join(all[max(0, len(all)-lines):], "; ")
	return strings.ToValidUTF8(joined[max(0, len(joined)-bytes):], "")
}
