package database

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"sync"

	"github.com/musterdr/muster/providers/fault"
)

// session is a script that holds the instant of a backup until it is closed.
type session struct {
	input *io.PipeWriter // its end ends the script
	done  chan struct{}  // closed when the script has ended

	mu   sync.Mutex
	told told
	err  error // why the script ended
}

// begin starts a session, and returns when it holds the instant. A mode without one gives nil.
func (s *Server) begin(ctx context.Context, c call) (*session, error) {
	if c.script == "" {
		return nil, nil
	}
	stdin, input := io.Pipe()
	stdout, output := io.Pipe()
	h := &session{input: input, done: make(chan struct{}), told: told{facts: map[string]string{}}}
	ready := make(chan error, 1)
	go h.listen(stdout, ready)
	go func() {
		c.stdin, c.stdout = stdin, output
		err := s.run(ctx, c)
		_ = output.CloseWithError(io.EOF) // the reader's only error
		_ = stdin.Close()
		h.mu.Lock()
		h.err = err
		h.mu.Unlock()
		close(h.done)
	}()
	select {
	case err := <-ready:
		if err == nil {
			return h, nil
		}
		_ = input.Close()
		<-h.done
		return nil, errors.Join(h.end(), err)
	case <-h.done:
		return nil, errors.Join(h.end(), fault.Newf(c.op, fault.Internal, s.Database.Name, "the session ended before it was ready"))
	}
}

// listen reads what the script tells, before it is ready and after.
func (h *session) listen(from *io.PipeReader, ready chan<- error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		h.mu.Lock()
		before := h.told.ready
		err := h.told.line(lines.Text())
		now := h.told.ready
		h.mu.Unlock()
		if err != nil {
			ready <- err
			break
		}
		if now && !before {
			ready <- nil
		}
	}
	_, _ = io.Copy(io.Discard, from) // the script must not wait for a reader
}

// facts are what the script has told so far.
func (h *session) facts() map[string]string {
	if h == nil {
		return map[string]string{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.told.facts)
}

// lost is closed when the script has ended.
func (h *session) lost() <-chan struct{} {
	if h == nil {
		return nil
	}
	return h.done
}

func (h *session) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// close lets go of the instant. The error says that the script did not hold it to its end.
func (h *session) close() error {
	if h == nil {
		return nil
	}
	_ = h.input.Close()
	<-h.done
	return h.end()
}
