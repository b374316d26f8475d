package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/musterdr/muster/providers/fault"
)

const (
	// attempts bounds how often one request is sent when the server asks for patience or the
	// connection breaks. With the server's usual Retry-After of one second, and up to maxDelay, that
	// is minutes.
	attempts = 12
	maxDelay = 30 * time.Second
	// connectAttempts bounds the tries of a read that got no answer at all; callers that wait for a
	// server to come up repeat themselves.
	connectAttempts = 5
)

// request is one call of the API.
type request struct {
	method      string
	path        string // from the root, each segment escaped
	query       url.Values
	contentType string // of body; empty means JSON
	accept      string // of the answer; empty means JSON
	body        []byte
}

// send sends a request and returns the response of a success; the caller closes its body. It waits
// and repeats when the server says 429, or 503 with Retry-After, and when a connection breaks
// before there was a response and repeating is safe.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		response, err := c.once(ctx, r)
		if err == nil && response.StatusCode < 400 {
			return response, nil
		}
		delay, again := time.Duration(0), false
		if err != nil {
			delay, again = backoff(attempt), r.method == http.MethodGet && attempt < connectAttempts && !identityRefused(err)
		} else {
			delay, again = patience(response)
			if response.StatusCode == http.StatusTooManyRequests {
				c.gate(r).narrow()
			}
			err = statusError(response)
		}
		if !again || attempt == attempts || ctx.Err() != nil {
			return nil, classify(r.method+" "+r.path, c.server, err)
		}
		if err := sleep(ctx, delay); err != nil {
			return nil, classify(r.method+" "+r.path, c.server, err)
		}
	}
}

// gate is the turnstile that a request should pass.
func (c *Client) gate(r request) *turnstile {
	if r.method == http.MethodGet {
		return c.pages
	}
	return c.writes
}

// call sends a request and decodes the answer into `into` unless that is nil.
func (c *Client) call(ctx context.Context, r request, into any) error {
	_, err := c.warned(ctx, r, into)
	return err
}

// warned is a call that hands on the server's warnings.
func (c *Client) warned(ctx context.Context, r request, into any) (warnings []string, err error) {
	response, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if into == nil {
		_, err = io.Copy(io.Discard, response.Body)
	} else {
		decoder := json.NewDecoder(response.Body)
		decoder.UseNumber()
		err = decoder.Decode(into)
	}
	if err != nil {
		return nil, classify("read answer to "+r.method+" "+r.path, c.server, err)
	}
	headers, _ := utilnet.ParseWarningHeaders(response.Header.Values("Warning")) // one that is none warns of nothing
	for _, header := range headers {
		warnings = append(warnings, header.Text)
	}
	return warnings, nil
}

func (c *Client) once(ctx context.Context, r request) (*http.Response, error) {
	address := c.server + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	request, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", cmp.Or(r.accept, "application/json"))
	if r.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if r.contentType != "" {
		request.Header.Set("Content-Type", r.contentType)
	}
	return c.http.Do(request)
}

// patience reads how long the server wants the client to wait before it repeats a request.
func patience(response *http.Response) (time.Duration, bool) {
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	switch {
	case response.StatusCode == http.StatusTooManyRequests && err != nil:
		return time.Second, true
	case response.StatusCode == http.StatusTooManyRequests, response.StatusCode == http.StatusServiceUnavailable && err == nil:
		return min(time.Duration(seconds)*time.Second, maxDelay), true
	}
	return 0, false
}

func backoff(attempt int) time.Duration {
	return min(100*time.Millisecond<<attempt, 5*time.Second)
}

func sleep(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// statusError reads the Status object of a refused request and closes the body.
func statusError(response *http.Response) error {
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return err
	}
	var status metav1.Status
	if json.Unmarshal(text, &status) != nil || status.Kind != "Status" {
		status = metav1.Status{Message: fmt.Sprintf("the server answered %s", response.Status)}
	}
	status.Status, status.Code = metav1.StatusFailure, int32(response.StatusCode)
	return &apierrors.StatusError{ErrStatus: status}
}

// classify gives an API error its kind.
func classify(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	return fault.New(op, kindOf(err), subject, err)
}

func kindOf(err error) fault.Kind {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return kindOfStatus(err, int(status.Status().Code))
	}
	var network net.Error
	switch {
	case identityRefused(err):
		return fault.Denied
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fault.Transient
	}
	return fault.Internal
}

func kindOfStatus(err error, code int) fault.Kind {
	switch {
	case apierrors.IsAlreadyExists(err):
		return fault.Exists
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fault.Denied
	case code == http.StatusNotFound:
		return fault.NotFound
	case code == http.StatusConflict:
		return fault.Busy
	case code == http.StatusGone, code == http.StatusTooManyRequests, code >= 500:
		return fault.Transient
	case code == http.StatusMethodNotAllowed, code == http.StatusNotAcceptable, code == http.StatusUnsupportedMediaType:
		return fault.Unsupported
	}
	return fault.Invalid
}

// statusCode returns the HTTP status of a refused request, 0 when the error is something else.
func statusCode(err error) int {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return 0
	}
	return int(status.Status().Code)
}
