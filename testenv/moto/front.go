package moto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/musterdr/muster/testenv/ebsdirect"
)

// Front is AWS as the tests see it. Its methods may be called by several goroutines at once.
type Front struct {
	// URL is where EC2, EBS and STS of all regions are.
	URL string
	// Content is what volumes and snapshots hold.
	Content *ebsdirect.Content

	dir    string
	moto   *process
	direct *ebsdirect.Server
	server *http.Server
	done   chan struct{}

	mu      sync.Mutex
	calls   []Call
	seen    map[string]bool // names of all calls since the start; Reset keeps them
	demands []*demand
	after   func(Call)
	expired map[string]bool
	skew    time.Duration
	page    int
	work    sync.Mutex // calls that change something are carried out one after the other
	world   world
}

// demand is a refusal that was asked for.
type demand struct {
	action string
	times  int
	with   Refusal
}

// Start starts moto and the Front.
func Start(ctx context.Context) (*Front, error) {
	dir, err := os.MkdirTemp("", "muster-moto-")
	if err != nil {
		return nil, err
	}
	f := &Front{dir: dir, Content: ebsdirect.NewContent(), seen: map[string]bool{}, done: make(chan struct{}), world: newWorld(), expired: map[string]bool{}}
	if f.moto, err = startProcess(ctx, dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	f.direct = &ebsdirect.Server{Content: f.Content, Now: f.now, Region: regionOf, Register: f.register}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, f.moto.stop(), os.RemoveAll(dir))
	}
	f.URL = "http://" + listener.Addr().String()
	f.server = &http.Server{Handler: http.HandlerFunc(f.serve), ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(f.done)
		_ = f.server.Serve(listener) // it ends by Close
	}()
	return f, nil
}

// Stop ends both.
func (f *Front) Stop() error {
	err := errors.Join(f.server.Close(), f.moto.stop(), os.RemoveAll(f.dir))
	<-f.done
	return err
}

// Reset forgets everything but the names of the calls that were seen.
func (f *Front) Reset(ctx context.Context) error {
	f.work.Lock()
	defer f.work.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.demands, f.after, f.expired, f.skew, f.page = nil, nil, nil, map[string]bool{}, 0, 0
	f.direct.PageSize, f.direct.EmptyPages = 0, false
	f.world = newWorld()
	f.Content.Reset()
	return f.moto.reset(ctx)
}

func (f *Front) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.skew)
}

// Refuse lets the next calls of an action ("CreateVolume", "*" for any) be refused.
func (f *Front) Refuse(action string, times int, with Refusal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.demands = append(f.demands, &demand{action, times, with})
}

// Expire refuses an access key from now on, as one whose session has ended.
func (f *Front) Expire(access string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expired[access] = true
}

// Skew puts the clock of AWS ahead of this host's.
func (f *Front) Skew(by time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.skew = by
}

// Pages limits what one page of a list holds.
func (f *Front) Pages(size int, empty bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.page, f.direct.PageSize, f.direct.EmptyPages = size, size, empty
}

// After calls hook behind each call: it was carried out, and its answer is held back until hook returns.
func (f *Front) After(hook func(Call)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.after = hook
}

// Calls are those since Reset, in their order.
func (f *Front) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Count is how often an action was carried out since Reset.
func (f *Front) Count(action string) int {
	n := 0
	for _, c := range f.Calls() {
		if c.Action == action && !c.Refused {
			n++
		}
	}
	return n
}

// Seen are the names of all calls since Start: "ec2:CreateSnapshots".
func (f *Front) Seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// admit logs a call and says whether it is refused.
func (f *Front) admit(q *request) (Refusal, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refusal, refused := f.refusal(q)
	q.Refused = refused
	f.calls = append(f.calls, q.Call)
	f.seen[q.String()] = true
	return refusal, refused
}

func (f *Front) refusal(q *request) (Refusal, bool) {
	if f.expired[q.Access] {
		if q.Service == "ec2" {
			return Refusal{Code: "RequestExpired", Message: "Request has expired.", Status: http.StatusBadRequest}, true
		}
		return Refusal{Code: "ExpiredTokenException", Message: "The security token included in the request is expired", Status: http.StatusForbidden}, true
	}
	signed, err := time.Parse("20060102T150405Z", q.http.Header.Get("X-Amz-Date"))
	if err != nil || time.Now().Add(f.skew).Sub(signed).Abs() > 5*time.Minute {
		return Refusal{Code: "RequestExpired", Message: "Request has expired.", Status: http.StatusBadRequest}, true
	}
	for _, d := range f.demands {
		if d.times > 0 && (d.action == q.Action || d.action == "*") {
			d.times--
			return d.with, true
		}
	}
	return Refusal{}, false
}

// serve answers one request. What is done for it goes on when the client goes away, as in AWS.
func (f *Front) serve(w http.ResponseWriter, r *http.Request) {
	q, err := readRequest(r)
	if err != nil {
		return // the client went away in the middle of its request
	}
	w.Header().Set("Date", f.now().UTC().Format(http.TimeFormat))
	w.Header().Set("X-Amzn-Requestid", "req-front")
	if refusal, refused := f.admit(q); refused {
		refusal.write(w, q.Service)
		return
	}
	q.http = r.WithContext(context.WithoutCancel(r.Context()))
	answer := httptest.NewRecorder()
	f.carryOut(answer, q)
	f.mu.Lock()
	hook := f.after
	f.mu.Unlock()
	if hook != nil {
		hook(q.Call)
	}
	for name, values := range answer.Header() {
		if name != "Date" {
			w.Header()[name] = values
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(answer.Body.Len()))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // a client that is gone
}

func (f *Front) carryOut(w http.ResponseWriter, q *request) {
	if q.Service == "ebs" {
		f.direct.ServeHTTP(w, q.http)
		return
	}
	if err := f.ec2(w, q); err != nil {
		var refusal *Refusal
		if !errors.As(err, &refusal) {
			refusal = &Refusal{Code: "InternalError", Message: err.Error(), Status: http.StatusInternalServerError}
		}
		refusal.write(w, q.Service)
	}
}

// forward lets moto do it. An answer that is an error is written to w, and nil returned.
func (f *Front) forward(w http.ResponseWriter, q *request) (*node, error) {
	out, err := http.NewRequestWithContext(q.http.Context(), http.MethodPost, f.moto.url+"/", bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	out.Header = q.http.Header.Clone()
	out.Header.Del("Accept-Encoding")
	out.Host = q.http.Host
	response, err := http.DefaultClient.Do(out)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
		w.WriteHeader(response.StatusCode)
		_, err := w.Write(raw)
		return nil, err
	}
	return parseXML(raw)
}

func regionOf(r *http.Request) string {
	if m := scope.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
		return m[2]
	}
	return ""
}

func send(w http.ResponseWriter, answer *node) error {
	w.Header().Set("Content-Type", "text/xml")
	_, err := io.WriteString(w, answer.String())
	return err
}
