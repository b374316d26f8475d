package database

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// Hold keeps the writers of a server waiting until Release, or until its time is over.
type Hold struct {
	*session
	server *Server
	cancel context.CancelFunc
}

// quiesceEnds is how much longer than writers wait a script may take to be reached and to end.
const quiesceEnds = 30 * time.Second

// Quiesce keeps all writers of the server waiting, and returns when they do. The script lets them go by itself when
// `within` is over, in whole seconds and counted from the first that waits, and so does the server when the script is
// stuck: whatever becomes of the caller. Unless there is an error, the caller calls Release. Errors: Unsupported for an
// engine that can't, Busy for writers that could not be stopped in time, and what the engine says.
func (s *Server) Quiesce(ctx context.Context, within time.Duration) (*Hold, error) {
	const op = "quiesce"
	if s.Engine.Spec.Quiesce == "" {
		return nil, fault.Newf(op, fault.Unsupported, s.Database.Name, "engine %s can't keep writers waiting", s.Engine.Metadata.Name)
	}
	limited, cancel := context.WithTimeout(ctx, within+quiesceEnds)
	env := map[string]string{"QUIESCE_SECONDS": strconv.Itoa(int(within.Seconds()))}
	held, err := s.begin(limited, call{op: op, script: s.Engine.Spec.Quiesce, env: env})
	if err == nil {
		return &Hold{session: held, server: s, cancel: cancel}, nil
	}
	if ctx.Err() == nil && limited.Err() != nil {
		err = fault.Newf(op, fault.Busy, s.Database.Name, "writers did not wait within %s", within+quiesceEnds)
	}
	cancel()
	return nil, err
}

// Release lets writers go on, and returns what the server told. The error is Busy when they may have gone on before:
// then the facts are nobody's.
func (h *Hold) Release() (map[string]string, error) {
	defer h.cancel()
	early := false
	select {
	case <-h.lost():
		early = true
	default:
	}
	err := h.close()
	if early && err == nil {
		err = errors.New("the script ended before it was told to")
	}
	if err != nil {
		return nil, fault.Newf("quiesce", fault.Busy, h.server.Database.Name, "writers may have gone on too early: %w", err)
	}
	return h.facts(), nil
}
