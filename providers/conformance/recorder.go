package conformance

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

// Outcome is how a case ended.
type Outcome string

// The outcomes.
const (
	Pass Outcome = "pass"
	Fail Outcome = "fail"
	Skip Outcome = "skip"
)

// Result is one line of a suite's table.
type Result struct {
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"` // of a failure or a skip; lines when there are several
}

// Recorder is a T that keeps the results. Record makes one.
type Recorder struct {
	mu      *sync.Mutex
	results *[]Result
	observe func(Result)
	name    string
	reasons []string
	failed  bool
	skipped bool
}

// Record runs the suite and returns every case's result, and as the last one, named "suite", what went
// wrong outside of the cases, if anything did. each, which may be nil, is called as soon as a result is there, by one
// case at a time.
func Record(config Config, each func(Result)) []Result {
	if each == nil {
		each = func(Result) {}
	}
	results := []Result{}
	root := &Recorder{mu: &sync.Mutex{}, results: &results, observe: each, name: "suite"}
	root.do(func(t T) { Run(t, config) })
	if root.failed {
		root.finish()
	}
	return results
}

// Passed reports whether no result is a failure.
func Passed(results []Result) bool {
	for _, r := range results {
		if r.Outcome == Fail {
			return false
		}
	}
	return true
}

// Run implements T.
func (r *Recorder) Run(name string, body func(T)) bool {
	part := &Recorder{mu: r.mu, results: r.results, observe: r.observe, name: name}
	if r.name != "suite" {
		part.name = r.name + "/" + name
	}
	part.do(body)
	part.finish()
	if part.failed && r.name != "suite" {
		r.failed = true
	}
	return !part.failed
}

// do runs body in a goroutine that Fatalf and Skipf may end.
func (r *Recorder) do(body func(T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if cause := recover(); cause != nil {
				r.Errorf("panic: %v\n%s", cause, debug.Stack())
			}
		}()
		body(r)
	}()
	<-done
}

func (r *Recorder) finish() {
	result := Result{Name: r.name, Outcome: Pass, Reason: strings.Join(r.reasons, "\n")}
	switch {
	case r.failed:
		result.Outcome = Fail
	case r.skipped:
		result.Outcome = Skip
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.results = append(*r.results, result)
	r.observe(result)
}

// Helper implements T.
func (r *Recorder) Helper() {}

// Logf implements T; what a case that passes has to say is dropped.
func (r *Recorder) Logf(string, ...any) {}

// Errorf implements T.
func (r *Recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	r.reasons = append(r.reasons, fmt.Sprintf(format, args...))
}

// Fatalf implements T.
func (r *Recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// Skipf implements T.
func (r *Recorder) Skipf(format string, args ...any) {
	r.mu.Lock()
	r.skipped = true
	r.reasons = append(r.reasons, fmt.Sprintf(format, args...))
	r.mu.Unlock()
	runtime.Goexit()
}
