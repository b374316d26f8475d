package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// WaitFor waits until something outside holds: exactly one of Objects, HTTP and TCP.
type WaitFor struct {
	Objects *ObjectChoice `yaml:"objects,omitempty"`
	// Condition is a CEL expression over `object`, which is null while there is none, where Objects
	// names one, and else over `objects`, a list.
	Condition string      `yaml:"condition,omitempty"`
	HTTP      *HTTPChoice `yaml:"http,omitempty"`
	TCP       *TCPChoice  `yaml:"tcp,omitempty"`

	Every  plans.Duration `yaml:"every,omitempty"`  // between two looks; default 2s
	Within plans.Duration `yaml:"within,omitempty"` // of one try; default 10m
}

// HTTPChoice is an address that shall answer.
type HTTPChoice struct {
	URL          string   `yaml:"url"`
	CAFile       string   `yaml:"caFile,omitempty"`
	ExpectStatus statuses `yaml:"expectStatus,omitempty"` // default 2xx
	// Condition is a CEL expression over `response`: {status, headers, body, json}.
	Condition string `yaml:"condition,omitempty"`
}

// TCPChoice is an address that shall take connections.
type TCPChoice struct {
	Address string `yaml:"address"` // host:port
}

const (
	defaultEvery  = plans.Duration(2 * time.Second)
	shortestEvery = plans.Duration(100 * time.Millisecond)
	defaultWithin = plans.Duration(10 * time.Minute)
	// lookWithin bounds one look at an address.
	lookWithin = 10 * time.Second
)

// waitReceipt is what wait-for leaves.
type waitReceipt struct {
	What    string  `json:"what"`
	Seen    string  `json:"seen"` // when it held
	Seconds float64 `json:"seconds"`
}

// waiting is one wait in progress.
type waiting struct {
	what  string
	every time.Duration
	seen  string // last
	tell  func(string)
}

// see keeps what a look has found, for people.
func (w *waiting) see(text string) {
	w.seen = text
	w.tell("waiting for " + w.what + ": " + text)
}

// Check wants one thing to wait for, and conditions that give a truth value.
func (s *WaitFor) Check(ctx context.Context, run *orchestrator.Run) error {
	if s.Every != 0 && s.Every < shortestEvery {
		return invalid("every", "want at least %s", shortestEvery)
	}
	chosen := 0
	for _, set := range []bool{s.Objects != nil, s.HTTP != nil, s.TCP != nil} {
		if set {
			chosen++
		}
	}
	if chosen != 1 {
		return invalid("wait-for", "want exactly one of objects, http and tcp")
	}
	if (s.Objects != nil) != (s.Condition != "") {
		return invalid("condition", "objects and condition go together; http has a condition of its own")
	}
	switch {
	case s.Objects != nil:
		return s.checkObjects(ctx, run)
	case s.HTTP != nil:
		return s.HTTP.check()
	}
	if _, port, err := net.SplitHostPort(s.TCP.Address); err != nil || port == "" {
		return invalid("tcp.address", "want host:port")
	}
	return nil
}

func (h *HTTPChoice) check() error {
	if err := checkURL("http.url", h.URL, false); err != nil {
		return err
	}
	if h.CAFile != "" {
		if _, err := authorities(h.CAFile); err != nil {
			return err
		}
	}
	_, err := h.condition()
	return err
}

// condition is nil when there is none.
func (h *HTTPChoice) condition() (*plans.Condition, error) {
	if h.Condition == "" {
		return nil, nil
	}
	return plans.NewCondition(h.Condition, "response")
}

// Do waits. When the time is over it is Transient and says what was last seen.
func (s *WaitFor) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	limit := cmp.Or(s.Within, defaultWithin)
	until, cancel := context.WithTimeout(ctx, time.Duration(limit))
	defer cancel()
	w := &waiting{what: s.what(), every: time.Duration(cmp.Or(s.Every, defaultEvery)), seen: "nothing yet", tell: run.Progress.Status}
	began := run.Now()
	err := s.wait(until, run, w)
	switch {
	case err == nil:
		return json.Marshal(waitReceipt{What: w.what, Seen: w.seen, Seconds: run.Now().Sub(began).Seconds()})
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case until.Err() != nil:
		return nil, fault.Newf("wait for", fault.Transient, w.what, "not so within %s; last seen: %s", limit, w.seen)
	default:
		return nil, err
	}
}

func (s *WaitFor) what() string {
	switch {
	case s.Objects != nil:
		return s.Objects.String()
	case s.HTTP != nil:
		return withoutQuery(s.HTTP.URL)
	default:
		return s.TCP.Address
	}
}

func (s *WaitFor) wait(ctx context.Context, run *orchestrator.Run, w *waiting) error {
	switch {
	case s.Objects != nil:
		return s.waitForObjects(ctx, run, w)
	case s.HTTP != nil:
		return s.HTTP.wait(ctx, w)
	default:
		return w.poll(ctx, func(ctx context.Context) error {
			connection, err := new(net.Dialer).DialContext(ctx, "tcp", s.TCP.Address)
			if err != nil {
				return err
			}
			w.see("it takes connections")
			return connection.Close()
		})
	}
}

// poll looks until there is no error.
func (w *waiting) poll(ctx context.Context, look func(context.Context) error) error {
	for {
		looking, cancel := context.WithTimeoutCause(ctx, lookWithin, fault.Newf("look", fault.Transient, w.what, "no answer within %s", lookWithin))
		err := look(looking)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil { // else the look was cut off, and tells nothing
			w.see(err.Error())
		}
		pause(ctx, w.every)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (h *HTTPChoice) wait(ctx context.Context, w *waiting) error {
	condition, err := h.condition()
	if err != nil {
		return err
	}
	c := call{op: "ask", method: http.MethodGet, url: h.URL, header: http.Header{"User-Agent": {"muster"}}, caFile: h.CAFile, follow: true, maxBody: maxBody}
	return w.poll(ctx, func(ctx context.Context) error {
		a, err := c.send(ctx)
		if err != nil {
			return err
		}
		if !h.ExpectStatus.include(a.status) {
			return fault.Newf(c.op, fault.Transient, c.name(), "it answered %d %s, want %s", a.status, http.StatusText(a.status), h.ExpectStatus)
		}
		if err := expect(ctx, c, condition, a); err != nil {
			return err
		}
		w.see("it answered " + http.StatusText(a.status))
		return nil
	})
}

// Verify has nothing to add: Do looked at the world.
func (s *WaitFor) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }

// Undo does nothing: Do changed nothing.
func (s *WaitFor) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }

// pause waits, though not longer than ctx lasts.
func pause(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
