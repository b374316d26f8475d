package shell

import (
	"context"
	"errors"
	"io"
	"sync"
)

// streams are those of one script. When one fails, the script's context ends.
type streams struct {
	give context.CancelCauseFunc
	over chan struct{} // closed when the script and its processes have ended

	mu     sync.Mutex
	failed error // the first
}

func newStreams(ctx context.Context) (context.Context, *streams) {
	ctx, give := context.WithCancelCause(ctx)
	return ctx, &streams{give: give, over: make(chan struct{})}
}

// end lets go of what still waits.
func (s *streams) end() {
	s.give(nil)
	close(s.over)
}

func (s *streams) fail(err error) {
	s.mu.Lock()
	if s.failed == nil {
		s.failed = err
	}
	s.mu.Unlock()
	s.give(err)
}

// failure is the error of the stream that failed first.
func (s *streams) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *streams) output(to io.Writer) io.Writer { return &output{streams: s, to: to} }

func (s *streams) input(from io.Reader) io.Reader { return &input{streams: s, from: from} }

// output takes everything, and throws away what follows a failure: a script that nobody reads from would
// not end.
type output struct {
	streams *streams
	to      io.Writer // nil throws away
}

func (o *output) Write(p []byte) (int, error) {
	if o.to == nil {
		return len(p), nil
	}
	if _, err := o.to.Write(p); err != nil {
		o.to = nil
		o.streams.fail(err)
	}
	return len(p), nil
}

// input fails when the script has ended alone: it would take an error for the end of its input.
type input struct {
	streams *streams
	from    io.Reader
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		i.streams.fail(err)
		<-i.streams.over
	}
	return n, err
}
