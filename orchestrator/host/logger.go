package host

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

const (
	maxLine = 8 << 10 // bytes of one line in the log
	maxTail = 1 << 10 // bytes of last words in an error
)

// logger gives what go-plugin logs, and a provider's own lines, to Muster's log. What go-plugin says by itself
// are details: that a process was killed we know.
type logger struct {
	hclog.Logger // what is not overridden says nothing
	provider     bool
	to           *slog.Logger
	masks        masks
}

var _ hclog.Logger = logger{}

func newLogger(to *slog.Logger, m masks) logger {
	return logger{Logger: hclog.NewNullLogger(), to: to, masks: m}
}

func (l logger) Log(level hclog.Level, text string, args ...any) {
	clean := make([]any, 0, len(args))
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			arg = l.line(text)
		}
		if _, key := arg.(string); i%2 == 0 && !key {
			arg = "value" // slog wants names
		}
		clean = append(clean, arg)
	}
	if !l.provider {
		level = hclog.Debug
	}
	l.to.Log(context.Background(), levelOf(level), l.line(text), clean...)
}

func (l logger) line(text string) string {
	if len(text) > maxLine {
		text = text[:maxLine] + "…"
	}
	return l.masks.text(strings.ToValidUTF8(text, "?"))
}

func levelOf(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (l logger) Trace(string, ...any)           {}
func (l logger) Debug(text string, args ...any) { l.Log(hclog.Debug, text, args...) }
func (l logger) Info(text string, args ...any)  { l.Log(hclog.Info, text, args...) }
func (l logger) Warn(text string, args ...any)  { l.Log(hclog.Warn, text, args...) }
func (l logger) Error(text string, args ...any) { l.Log(hclog.Error, text, args...) }
func (l logger) IsDebug() bool                  { return true }
func (l logger) IsInfo() bool                   { return true }
func (l logger) IsWarn() bool                   { return true }
func (l logger) IsError() bool                  { return true }
func (l logger) GetLevel() hclog.Level          { return hclog.Debug }
func (l logger) ResetNamed(string) hclog.Logger { return l }

// Named is what go-plugin logs a provider's lines with.
func (l logger) Named(string) hclog.Logger {
	l.provider = true
	return l
}

func (l logger) With(args ...any) hclog.Logger {
	l.to = l.to.With(args...)
	return l
}

// lines is a writer that logs what it gets line by line; a line that is too long is cut.
type lines struct {
	log  logger
	mu   sync.Mutex
	held []byte // the beginning of a line, one byte more than allowed at most
}

var _ io.Writer = (*lines)(nil)

func (w *lines) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		rest = after
		w.held = append(w.held, line[:min(len(line), maxLine+1-len(w.held))]...)
		if whole {
			w.flush()
		}
	}
	return len(p), nil
}

func (w *lines) flush() {
	if len(w.held) > 0 {
		w.log.Log(hclog.Debug, string(w.held))
	}
	w.held = w.held[:0]
}

// tail remembers why a program ended: the line by which a runtime gave up, else its last one.
type tail struct {
	mu    sync.Mutex
	line  []byte // that is being written
	last  string
	cause string
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		rest = after
		t.line = append(t.line, line[:min(len(line), maxTail-len(t.line))]...)
		if whole {
			t.end()
		}
	}
	return len(p), nil
}

func (t *tail) end() {
	line := strings.TrimSpace(strings.ToValidUTF8(string(t.line), "?"))
	t.line = t.line[:0]
	if line == "" {
		return
	}
	t.last = line
	if t.cause == "" && slices.ContainsFunc(causes[:], func(begin string) bool { return strings.HasPrefix(line, begin) }) {
		t.cause = line
	}
}

// causes are how the lines begin by which runtimes of Go, C and C++ say why they give up; stacks follow.
var causes = [...]string{"panic: ", "fatal error: ", "runtime: ", "runtime/cgo: ", "terminate called", "SIG"}

func (t *tail) words() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause != "" {
		return t.cause
	}
	return t.last
}
