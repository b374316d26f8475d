package steps

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/pki"
)

// site is an HTTPS server of an authority of its own. It keeps what it was asked.
type site struct {
	*httptest.Server
	ca string // file

	mu     sync.Mutex
	asked  []*http.Request
	bodies []string
}

func newSite(t *testing.T, answer http.HandlerFunc) *site {
	t.Helper()
	authority, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := authority.Issue(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{ca: filepath.Join(t.TempDir(), "ca.crt")}
	if err := os.WriteFile(s.ca, authority.PEM, 0o644); err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.asked, s.bodies = append(s.asked, r), append(s.bodies, string(body))
		s.mu.Unlock()
		answer(w, r)
	}))
	s.Config.ErrorLog = quiet()
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// last is the request that came last.
func (s *site) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) == 0 {
		t.Fatal("nobody asked")
	}
	return s.asked[len(s.asked)-1], s.bodies[len(s.bodies)-1]
}

func (s *site) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func TestCallHTTP(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/things/7")
		w.Header().Set("Set-Cookie", "session=abcdef")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id": 12345678901234567890, "token": "`+r.Header.Get("X-Key")+`"}`)
	})
	step := settings[CallHTTP](t, `
url: `+s.URL+`/things?q=1
headers: {X-Note: hello}
secretHeaders: {X-Key: {file: `+secretFile(t, planted)+`}}
body: {name: web, count: 3, list: [true, null]}
caFile: `+s.ca+`
expectStatus: [201, "3xx"]
expect: response.status == 201 && response.json.token == "***" && response.headers["content-type"].startsWith("application/json")
`)
	w := newWatched()
	r := do[httpReceipt](t, step, w.Run)
	got, body := s.last(t)
	if got.Method != "POST" || body != `{"count":3,"list":[true,null],"name":"web"}` || got.Header.Get("X-Key") != planted ||
		got.Header.Get("X-Note") != "hello" || got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Idempotency-Key") != token(w.Run, forDoing) {
		t.Errorf("asked %s %v %s", got.Method, got.Header, body)
	}
	if r.URL != s.URL+"/things" || r.Status != 201 || r.Cut || r.Headers["location"] != "/things/7" || r.Headers["set-cookie"] != "" || !strings.Contains(r.Body, "12345678901234567890") {
		t.Errorf("%+v", r)
	}
	noSecret(t, "receipt", mustJSON(t, r))
	noSecret(t, "log", w.said())
	if again, err := step.Do(t.Context(), w.Run, json.RawMessage(`{"status":1}`)); err != nil || string(again) != `{"status":1}` || s.count() != 1 {
		t.Errorf("with a receipt: %s, %v, asked %d times", again, err, s.count())
	}
}

func TestCallHTTPSendsTextAndGets(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") })
	do[httpReceipt](t, settings[CallHTTP](t, `{url: `+s.URL+`, method: PUT, body: "a: b", caFile: `+s.ca+`}`), newWatched().Run)
	if got, body := s.last(t); got.Method != "PUT" || body != "a: b" || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("asked %s %v %s", got.Method, got.Header, body)
	}
	r := do[httpReceipt](t, settings[CallHTTP](t, `{url: `+s.URL+`, caFile: `+s.ca+`, maxBody: 2}`), newWatched().Run)
	if got, _ := s.last(t); got.Method != "GET" || got.Header.Get("Content-Type") != "" || !r.Cut || r.Body != "fi" {
		t.Errorf("asked %s %v, answer %+v", got.Method, got.Header, r)
	}
}

// TestCallHTTPCutsBehindSecrets: where the bound falls into a secret, no part of it is kept.
func TestCallHTTPCutsBehindSecrets(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 10)+planted+"y")
	})
	for bound := 8; bound < 12+len(planted); bound++ {
		step := &CallHTTP{URL: s.URL, CAFile: s.ca, MaxBody: bound}
		step.SecretHeaders = settings[CallHTTP](t, `secretHeaders: {X-Key: {file: `+secretFile(t, planted)+`}}`).SecretHeaders
		if r := do[httpReceipt](t, step, newWatched().Run); strings.Contains(r.Body, "sw0") || len(r.Body) > bound {
			t.Fatalf("bound %d: body %q", bound, r.Body)
		}
	}
}

func TestCallHTTPJudgesAnswers(t *testing.T) {
	var status int
	after, text := "", "because of "+planted
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
	step := settings[CallHTTP](t, `{url: "`+s.URL+`/x?token=hidden", caFile: `+s.ca+`, secretHeaders: {Authorization: {file: `+secretFile(t, planted)+`}}}`)
	for code, kind := range map[int]fault.Kind{
		400: fault.Invalid, 401: fault.Denied, 403: fault.Denied, 404: fault.NotFound, 408: fault.Transient, 409: fault.Invalid,
		422: fault.Invalid, 429: fault.Transient, 500: fault.Transient, 503: fault.Transient,
	} {
		status = code
		_, err := step.Do(t.Context(), newWatched().Run, nil)
		wantFault(t, err, kind, "want 2xx: because of ***")
		if noSecret(t, "error", err.Error()); strings.Contains(err.Error(), "hidden") {
			t.Errorf("the query is in %v", err)
		}
	}
	status, after = 429, "1"
	began := time.Now()
	_, err := step.Do(t.Context(), newWatched().Run, nil)
	if took := time.Since(began); !fault.Is(err, fault.Transient) || took < time.Second {
		t.Errorf("asked to wait a second, ended after %s: %v", took, err)
	}
	status, after, text = 200, "", `{"state": "failed"}`
	step.Expect = `response.json.state == "done"`
	_, err = step.Do(t.Context(), newWatched().Run, nil)
	wantFault(t, err, fault.Internal, `not as expected: {"state": "failed"}`)
	step.Expect = `response.json.stage == "done"`
	_, err = step.Do(t.Context(), newWatched().Run, nil)
	wantFault(t, err, fault.Invalid, "no such key: stage")
}

func TestCallHTTPWantsProofOfIdentity(t *testing.T) {
	s := newSite(t, func(http.ResponseWriter, *http.Request) {})
	other := newSite(t, func(http.ResponseWriter, *http.Request) {})
	for _, ca := range []string{"", other.ca} {
		_, err := (&CallHTTP{URL: s.URL, CAFile: ca}).Do(t.Context(), newWatched().Run, nil)
		wantFault(t, err, fault.Denied, "certificate")
	}
	if s.count() != 0 {
		t.Errorf("it was asked %d times", s.count())
	}
	s.Close()
	_, err := (&CallHTTP{URL: s.URL + "/x?token=hidden"}).Do(t.Context(), newWatched().Run, nil)
	if wantFault(t, err, fault.Transient, "connection refused"); strings.Contains(err.Error(), "hidden") {
		t.Errorf("the query is in %v", err)
	}
}

func TestCallHTTPRedirects(t *testing.T) {
	other := newSite(t, func(http.ResponseWriter, *http.Request) {})
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/here":
			http.Redirect(w, r, "/there", http.StatusTemporaryRedirect)
		case "/away":
			http.Redirect(w, r, other.URL+"/landed", http.StatusTemporaryRedirect)
		case "/down":
			http.Redirect(w, r, plain.URL, http.StatusFound)
		case "/round":
			http.Redirect(w, r, "/round", http.StatusFound)
		}
	})
	both := filepath.Join(t.TempDir(), "both.crt")
	var authorities []byte
	for _, file := range []string{s.ca, other.ca} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		authorities = append(authorities, raw...)
	}
	if err := os.WriteFile(both, authorities, 0o644); err != nil {
		t.Fatal(err)
	}
	call := func(path string) (*CallHTTP, error) {
		step := settings[CallHTTP](t, `{method: PUT, url: "`+s.URL+path+`", headers: {X-Note: n}, body: text, caFile: `+both+`, secretHeaders: {X-Key: {file: `+secretFile(t, planted)+`}}}`)
		_, err := step.Do(t.Context(), newWatched().Run, nil)
		return step, err
	}
	if _, err := call("/here"); err != nil {
		t.Fatal(err)
	}
	if got, body := s.last(t); got.URL.Path != "/there" || got.Header.Get("X-Key") != planted || body != "text" || got.Header.Get("Referer") != "" {
		t.Errorf("at the same host: %s %v", got.URL, got.Header)
	}
	step, err := call("/away")
	if err != nil {
		t.Fatal(err)
	}
	if got, body := other.last(t); got.URL.Path != "/landed" || got.Header.Get("X-Key") != "" || got.Header.Get("X-Note") != "n" || body != "text" {
		t.Errorf("at another host: %s %v", got.URL, got.Header)
	}
	_, err = call("/down")
	wantFault(t, err, fault.Invalid, "from https to http")
	_, err = call("/round")
	wantFault(t, err, fault.Transient, "led on 10 times")
	step.ExpectStatus = statuses{{307, 307}}
	if r := do[httpReceipt](t, step, newWatched().Run); r.Status != 307 || r.Headers["location"] != other.URL+"/landed" {
		t.Errorf("where the redirect is what counts: %+v", r)
	}
}

func TestCallHTTPUndoes(t *testing.T) {
	status := http.StatusNoContent
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			w.Header().Set("Location", "things/7")
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.WriteHeader(status)
	})
	w := newWatched()
	step := settings[CallHTTP](t, `{url: "`+s.URL+`/all/", method: POST, undo: {}, caFile: `+s.ca+`, secretHeaders: {X-Key: {file: `+secretFile(t, planted)+`}}}`)
	raw, err := step.Do(t.Context(), w.Run, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Undo(t.Context(), w.Run, raw); err != nil {
		t.Fatal(err)
	}
	got, _ := s.last(t)
	if got.Method != "DELETE" || got.URL.Path != "/all/things/7" || got.Header.Get("X-Key") != planted || got.Header.Get("Idempotency-Key") != token(w.Run, forUndoing) {
		t.Errorf("undone by %s %s %v", got.Method, got.URL, got.Header)
	}
	step.Reverse = &ReverseCall{Method: "PUT", URL: s.URL + "/back", Body: map[string]any{"a": 1}}
	for _, status = range []int{http.StatusNotFound, http.StatusGone} {
		if err := step.Undo(t.Context(), w.Run, raw); err != nil {
			t.Errorf("what is gone already: %v", err)
		}
	}
	if got, body := s.last(t); got.Method != "PUT" || got.URL.Path != "/back" || body != `{"a":1}` {
		t.Errorf("undone by %s %s %s", got.Method, got.URL, body)
	}
	status = http.StatusForbidden
	wantFault(t, step.Undo(t.Context(), w.Run, raw), fault.Denied, "undo call")
	step.Reverse = &ReverseCall{}
	wantFault(t, step.Undo(t.Context(), w.Run, json.RawMessage(`{"headers": {"location": "https://elsewhere/x"}}`)), fault.Invalid, "another host")
	step.Reverse = nil
	if err := step.Undo(t.Context(), w.Run, raw); err != nil || !strings.Contains(w.said(), "has no undo") {
		t.Errorf("without undo: %v, %s", err, w.said())
	}
}

func TestCallHTTPCheck(t *testing.T) {
	for _, c := range []struct {
		with, text string
		kind       fault.Kind
	}{
		{`{}`, "https://host", fault.Invalid},
		{`{url: "ftp://host"}`, "https://host", fault.Invalid},
		{`{url: "https://me:` + planted + `@host"}`, "user or a password", fault.Invalid},
		{`{url: "https://host/%zz` + planted + `"}`, "https://host", fault.Invalid},
		{`{url: "http://host", secretHeaders: {A: {env: HOME}}}`, "must not travel over http", fault.Invalid},
		{`{url: "https://host", headers: {idempotency-key: a}}`, "set by Muster", fault.Invalid},
		{`{url: "https://host", headers: {"A B": a}}`, "name of a header", fault.Invalid},
		{`{url: "https://host", headers: {A: "a\nb"}}`, "line end", fault.Invalid},
		{`{url: "https://host", headers: {a: x}, secretHeaders: {A: {env: HOME}}}`, "in headers and in", fault.Invalid},
		{`{url: "https://host", expect: "response.status ="}`, "Syntax error", fault.Invalid},
		{`{url: "https://host", expect: "size(response.body)"}`, "want bool", fault.Invalid},
		{`{url: "https://host", expect: "answer.status == 1"}`, "unknown name", fault.Invalid},
		{`{url: "https://host", maxBody: -1}`, "maxBody", fault.Invalid},
		{`{url: "https://host", caFile: /none}`, "no such file", fault.NotFound},
		{`{url: "https://host", caFile: /etc/passwd}`, "no certificate", fault.Invalid},
		{`{url: "https://host", secretHeaders: {A: {env: MUSTER_TEST_NONE}}}`, "not set", fault.NotFound},
		{`{url: "https://host", undo: {url: nowhere}}`, "undo.url", fault.Invalid},
	} {
		err := settings[CallHTTP](t, c.with).Check(t.Context(), newWatched().Run)
		if wantFault(t, err, c.kind, c.text); err != nil {
			noSecret(t, "error", err.Error())
		}
	}
	set, err := plans.Read("plan.yaml", strings.NewReader("apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: p}\nspec:\n  purpose: drill\n  steps:\n"+
		"    - {id: a, uses: call-http, with: {url: x, expectStatus: [2xx, 99], secretHeaders: {A: "+planted+"}, bogus: 1}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = plans.CheckSteps(set, "p", vocabulary())
	for _, want := range []string{"want a status", "a secret itself never stands in a document", `unknown field "bogus"`} {
		wantFault(t, err, fault.Invalid, want)
	}
	noSecret(t, "error", err.Error())
}
