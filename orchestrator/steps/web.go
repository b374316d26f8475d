package steps

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/providers/fault"
)

const (
	// answerWithin bounds a call where the step sets no timeout.
	answerWithin = time.Minute
	// maxPatience bounds the wait that a server asks for; the step's own retries come after it.
	maxPatience  = 30 * time.Second
	maxRedirects = 10
	idempotency  = "Idempotency-Key"
)

// call is one HTTP request. Servers must prove their identity.
type call struct {
	op      string // for errors: "call"
	method  string
	url     string
	subject string // for errors, in place of the URL, which may be a secret; empty means the URL without its query
	header  http.Header
	// private names the headers that another host must not see.
	private []string
	body    []byte
	caFile  string // PEM; empty means the system's authorities
	follow  bool   // follows redirects
	maxBody int
	mask    *secret.Mask
}

// answer is a response as expressions and receipts see it: without secrets, its body bounded.
type answer struct {
	status int
	header map[string]string // names in lower case
	body   string
	cut    bool
	json   any // nil when the body is no JSON, or cut
}

// checkURL wants https, or http where nothing secret travels or nobody can listen. An error never
// shows the URL, which may be a secret.
func checkURL(field, text string, private bool) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return invalid(field, "want https://host/path")
	}
	if u.User != nil {
		return invalid(field, "it holds a user or a password: put them into a secret")
	}
	host := u.Hostname()
	if private && u.Scheme == "http" && host != "localhost" && host != "127.0.0.1" && host != "::1" {
		return invalid(field, "a secret must not travel over http: use https")
	}
	return nil
}

// withoutQuery is a URL as errors and receipts show it: queries may hold what belongs to nobody else.
func withoutQuery(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// send makes the request and returns whatever answer came.
func (c call) send(ctx context.Context) (answer, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		limited, cancel := context.WithTimeoutCause(ctx, answerWithin, fault.Newf(c.op, fault.Transient, c.name(), "no answer within %s", answerWithin))
		defer cancel()
		ctx = limited
	}
	transport, err := c.transport()
	if err != nil {
		return answer{}, err
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, c.method, c.url, bytes.NewReader(c.body))
	if err != nil {
		return answer{}, fault.Newf(c.op, fault.Invalid, c.name(), "it can't be asked for with %s", c.method)
	}
	maps.Copy(request.Header, c.header)
	response, err := (&http.Client{Transport: transport, CheckRedirect: c.redirected}).Do(request)
	if err != nil {
		return answer{}, c.fault(ctx, err)
	}
	defer response.Body.Close()
	a, err := c.read(response)
	if err != nil {
		return answer{}, c.fault(ctx, err)
	}
	return a, nil
}

func (c call) name() string {
	if c.subject != "" {
		return c.subject
	}
	return withoutQuery(c.url)
}

func (c call) transport() (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.caFile != "" {
		roots, err := authorities(c.caFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = roots
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true}, nil
}

// authorities reads a file of CA certificates; they are the only ones that count then.
func authorities(file string) (*x509.CertPool, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.New("read CA file", fault.NotFound, file, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fault.Newf("read CA file", fault.Invalid, file, "it holds no certificate in PEM form")
	}
	return roots, nil
}

var errDowngrade = errors.New("it leads from https to http, where nobody proves who answers")

// redirected drops what only the first host may see as soon as another one has had a part, and never
// gives up TLS.
func (c call) redirected(next *http.Request, via []*http.Request) error {
	if !c.follow {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("it led on %d times", maxRedirects)
	}
	next.Header.Del("Referer")
	first := via[0].URL
	for _, hop := range append(via, next) {
		if first.Scheme == "https" && hop.URL.Scheme != "https" {
			return errDowngrade
		}
		if hop.URL.Scheme == first.Scheme && hop.URL.Host == first.Host {
			continue
		}
		for _, name := range c.private {
			next.Header.Del(name)
		}
	}
	return nil
}

func (c call) read(response *http.Response) (answer, error) {
	text, cut, err := c.readBody(response.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: response.StatusCode, header: map[string]string{}, body: text, cut: cut}
	for name, values := range response.Header {
		a.header[strings.ToLower(name)] = c.mask.Text(strings.Join(values, ", "))
	}
	if !a.cut {
		decoder := json.NewDecoder(strings.NewReader(a.body))
		decoder.UseNumber()
		if decoder.Decode(&a.json) != nil || decoder.More() {
			a.json = nil
		}
	}
	return a, nil
}

// readBody reads somewhat more than is kept: where a secret is cut in two, its first half is not kept.
func (c call) readBody(body io.Reader) (text string, cut bool, err error) {
	var out bytes.Buffer
	limit := int64(c.maxBody) + 1 + int64(c.mask.Longest())
	masked := c.mask.Writer(&out)
	n, err := io.Copy(masked, io.LimitReader(body, limit))
	if err != nil {
		return "", false, err
	}
	if cut = n == limit; !cut {
		err = masked.Close()
	}
	raw := out.Bytes()
	if len(raw) > c.maxBody {
		raw, cut = raw[:c.maxBody], true
	}
	return strings.ToValidUTF8(string(raw), "\uFFFD"), cut, err
}

// fault is that of a call without an answer.
func (c call) fault(ctx context.Context, err error) error {
	var own *fault.Error
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &own) {
		return context.Cause(ctx)
	}
	var inside *url.Error // its text holds the whole URL
	if errors.As(err, &inside) {
		err = inside.Err
	}
	kind := fault.Transient
	var identity *tls.CertificateVerificationError
	switch {
	case errors.As(err, &identity):
		kind = fault.Denied
	case errors.Is(err, errDowngrade):
		kind = fault.Invalid
	}
	return c.mask.Error(fault.New(c.op, kind, c.name(), err))
}

// variables are what conditions see.
func (a answer) variables() map[string]any {
	headers := map[string]any{}
	for name, value := range a.header {
		headers[name] = value
	}
	return map[string]any{"response": map[string]any{"status": int64(a.status), "headers": headers, "body": a.body, "json": a.json}}
}

// judge makes an error of a status that nobody expects. Where the server says when to ask again, it
// first waits until then, though not for ever.
func (c call) judge(ctx context.Context, a answer, want statuses) error {
	if want.include(a.status) {
		return nil
	}
	if wait := patience(a); wait > 0 {
		pause(ctx, wait)
	}
	said := ""
	if text := lastLines(a.body); text != "" {
		said = ": " + text
	}
	return fault.Newf(c.op, kindOfStatus(a.status), c.name(), "it answered %d %s, want %s%s", a.status, http.StatusText(a.status), want, said)
}

func patience(a answer) time.Duration {
	seconds, err := strconv.Atoi(a.header["retry-after"])
	if err != nil || (a.status != http.StatusTooManyRequests && a.status != http.StatusServiceUnavailable) {
		return 0
	}
	return min(time.Duration(min(seconds, 3600))*time.Second, maxPatience)
}

func kindOfStatus(status int) fault.Kind {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fault.Denied
	case status == http.StatusNotFound:
		return fault.NotFound
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return fault.Transient
	default:
		return fault.Invalid
	}
}
