package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// CallHTTP makes one HTTP request and looks at the answer. It may be made more than once, when a
// process or a connection dies before its receipt is kept: its Idempotency-Key is the same then.
type CallHTTP struct {
	Method        string                      `yaml:"method,omitempty"` // default GET, with a body POST
	URL           string                      `yaml:"url"`
	Headers       map[string]string           `yaml:"headers,omitempty"`
	SecretHeaders map[string]secret.Reference `yaml:"secretHeaders,omitempty"`
	// Body is text, sent as it is, or anything else, sent as JSON.
	Body         any      `yaml:"body,omitempty"`
	CAFile       string   `yaml:"caFile,omitempty"`
	ExpectStatus statuses `yaml:"expectStatus,omitempty"` // default 2xx
	// Expect is a CEL expression over `response`: {status, headers, body, json}.
	Expect  string       `yaml:"expect,omitempty"`
	MaxBody int          `yaml:"maxBody,omitempty"` // bytes of the answer's body that are read; default 64 KiB
	Reverse *ReverseCall `yaml:"undo,omitempty"`
}

// ReverseCall is the request that takes a call back. It carries the same headers as the call.
type ReverseCall struct {
	Method string `yaml:"method,omitempty"` // default DELETE
	URL    string `yaml:"url,omitempty"`    // default the answer's Location, else the call's own
	Body   any    `yaml:"body,omitempty"`
}

const (
	defaultBody = 64 << 10
	maxBody     = 128 << 10 // receipts are kept in etcd
)

// httpReceipt is what call-http leaves.
type httpReceipt struct {
	URL     string            `json:"url"` // without its query
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Cut     bool              `json:"cut"`
	JSON    any               `json:"json,omitempty"`
	Seconds float64           `json:"seconds"`
	Token   string            `json:"token"` // its Idempotency-Key
}

// keptHeaders are those of an answer that a receipt keeps: none of them lets anybody in.
func keptHeaders() []string {
	return []string{"content-type", "date", "etag", "last-modified", "location", "request-id", "retry-after", "x-request-id"}
}

// Check compiles the expression and looks for the files and secrets.
func (s *CallHTTP) Check(context.Context, *orchestrator.Run) error {
	if err := checkURL("url", s.URL, len(s.SecretHeaders) > 0); err != nil {
		return err
	}
	if s.Reverse != nil && s.Reverse.URL != "" {
		if err := checkURL("undo.url", s.Reverse.URL, len(s.SecretHeaders) > 0); err != nil {
			return err
		}
	}
	if s.MaxBody < 0 || s.MaxBody > maxBody {
		return invalid("maxBody", "want 1 to %d bytes, or nothing for %d", maxBody, defaultBody)
	}
	if err := s.checkHeaders(); err != nil {
		return err
	}
	if _, err := s.condition(); err != nil {
		return err
	}
	if s.CAFile != "" {
		if _, err := authorities(s.CAFile); err != nil {
			return err
		}
	}
	_, err := s.call(s.method(), s.URL, s.Body, "")
	return err
}

func (s *CallHTTP) checkHeaders() error {
	for name := range s.SecretHeaders {
		for other := range s.Headers {
			if strings.EqualFold(name, other) {
				return invalid("headers", "%s stands in headers and in secretHeaders", name)
			}
		}
	}
	reserved := []string{idempotency, "Host", "Content-Length", "Transfer-Encoding", "Connection"}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(s.Headers)), slices.Collect(maps.Keys(s.SecretHeaders))) {
		if !validHeaderName(name) {
			return invalid("headers", "%q can't be the name of a header", name)
		}
		if slices.Contains(reserved, http.CanonicalHeaderKey(name)) {
			return invalid("headers", "%s is set by Muster itself", name)
		}
	}
	for name, value := range s.Headers {
		if strings.ContainsAny(value, "\r\n\x00") {
			return invalid("headers", "%s holds a line end", name)
		}
	}
	return nil
}

// validHeaderName wants a token of RFC 9110, 5.6.2.
func validHeaderName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// condition is nil when the step has none.
func (s *CallHTTP) condition() (*plans.Condition, error) {
	if s.Expect == "" {
		return nil, nil
	}
	return plans.NewCondition(s.Expect, "response")
}

// call prepares a request with the step's headers.
func (s *CallHTTP) call(method, address string, body any, key string) (call, error) {
	secrets, mask, err := secret.ReadAll(s.SecretHeaders)
	if err != nil {
		return call{}, err
	}
	text, kind, err := encodeBody(body)
	if err != nil {
		return call{}, err
	}
	c := call{
		op: "call", method: method, url: address, header: http.Header{}, body: text, caFile: s.CAFile,
		follow: !s.expectsRedirect(), maxBody: cmp.Or(s.MaxBody, defaultBody), mask: mask,
	}
	c.header.Set("User-Agent", "muster")
	c.header.Set(idempotency, key)
	if kind != "" {
		c.header.Set("Content-Type", kind)
	}
	for name, value := range s.Headers {
		c.header.Set(name, value)
	}
	for name, value := range secrets {
		if strings.ContainsAny(value, "\r\n") {
			return call{}, invalid("secretHeaders", "%s holds a line end", name)
		}
		c.header.Set(name, value)
		c.private = append(c.private, name)
	}
	return c, nil
}

// expectsRedirect reports whether an answer that leads elsewhere is what the step wants to see.
func (s *CallHTTP) expectsRedirect() bool {
	for _, r := range s.ExpectStatus {
		if r.first >= 300 && r.first < 400 {
			return true
		}
	}
	return false
}

func encodeBody(body any) (text []byte, kind string, err error) {
	switch b := body.(type) {
	case nil:
		return nil, "", nil
	case string:
		return []byte(b), "text/plain; charset=utf-8", nil
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, "", invalid("body", "it can't be written as JSON: %v", err)
		}
		return raw, "application/json", nil
	}
}

func (s *CallHTTP) method() string {
	if s.Method == "" && s.Body != nil {
		return http.MethodPost
	}
	return cmp.Or(s.Method, http.MethodGet)
}

// Do makes the call, unless a receipt says that it was made.
func (s *CallHTTP) Do(ctx context.Context, run *orchestrator.Run, prior orchestrator.Receipt) (orchestrator.Receipt, error) {
	if len(prior) > 0 {
		return prior, nil
	}
	condition, err := s.condition()
	if err != nil {
		return nil, err
	}
	key := token(run, forDoing)
	c, err := s.call(s.method(), s.URL, s.Body, key)
	if err != nil {
		return nil, err
	}
	began := run.Now()
	a, err := c.send(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.judge(ctx, a, s.ExpectStatus); err != nil {
		return nil, err
	}
	if err := expect(ctx, c, condition, a); err != nil {
		return nil, err
	}
	r := httpReceipt{
		URL: withoutQuery(s.URL), Status: a.status, Headers: map[string]string{}, Body: a.body, Cut: a.cut, JSON: a.json,
		Seconds: run.Now().Sub(began).Seconds(), Token: key,
	}
	for _, name := range keptHeaders() {
		if value, found := a.header[name]; found {
			r.Headers[name] = value
		}
	}
	return json.Marshal(r)
}

// expect is Internal when the answer is another than expected: an error that nobody classified, and
// that nothing says will change.
func expect(ctx context.Context, c call, condition *plans.Condition, a answer) error {
	if condition == nil {
		return nil
	}
	holds, err := condition.Holds(ctx, a.variables())
	if err != nil {
		return c.mask.Error(err)
	}
	if !holds {
		return fault.Newf(c.op, fault.Internal, c.name(), "the answer is not as expected: %s", lastLines(a.body))
	}
	return nil
}

// Verify has nothing to look at: what a call does is the user's to verify, in a step of its own.
func (s *CallHTTP) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Undo makes the call that takes the first one back. What is gone already is no error.
func (s *CallHTTP) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r httpReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Step, err)
	}
	if s.Reverse == nil {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "commands", Subject: run.Step,
			Text: "the call of " + r.URL + " has no undo: what it changed stays"})
		return nil
	}
	address, err := s.reverseURL(r)
	if err != nil {
		return err
	}
	c, err := s.call(cmp.Or(s.Reverse.Method, http.MethodDelete), address, s.Reverse.Body, token(run, forUndoing))
	if err != nil {
		return err
	}
	c.op = "undo call"
	a, err := c.send(ctx)
	if err != nil {
		return err
	}
	return c.judge(ctx, a, statuses{{200, 299}, {http.StatusNotFound, http.StatusNotFound}, {http.StatusGone, http.StatusGone}})
}

// reverseURL is the step's own, else the Location of what was made, else the call's. A Location at
// another host is refused: it would see the secrets.
func (s *CallHTTP) reverseURL(r httpReceipt) (string, error) {
	if s.Reverse.URL != "" {
		return s.Reverse.URL, nil
	}
	made, err := url.Parse(r.Headers["location"])
	base, parseErr := url.Parse(s.URL)
	if err != nil || parseErr != nil || made.String() == "" {
		return s.URL, nil
	}
	made = base.ResolveReference(made)
	if made.Host != base.Host || made.Scheme != base.Scheme {
		return "", fault.Newf("undo call", fault.Invalid, r.URL, "what it made is at another host, %s: give undo.url", made.Host)
	}
	return made.String(), nil
}
