package conformance

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/musterdr/muster/providers"
)

// scope is one case while it runs. Its body runs in a goroutine of its own, so that a provider that never
// comes back ends the case and not the suite.
type scope struct {
	*suite
	ctx     context.Context
	content providers.Content
	name    string

	mu        sync.Mutex
	t         T
	over      bool // the case was left behind; nothing is reported any more
	skipped   string
	opened    []providers.Provider
	volumes   []providers.Handle
	snapshots []providers.Handle
	mounts    []providers.Handle
	machines  []providers.Handle
	tokens    int
}

func newScope(s *suite, t T, name string, content providers.Content) *scope {
	return &scope{suite: s, t: t, name: strings.Trim(name+"-"+string(content), "-"), content: content}
}

func (c *scope) run(body func(*scope)) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), c.config.Patience)
	defer cancel()
	c.ctx = ctx
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.recoverPanic()
		body(c)
	}()
	c.await(done)
	c.cleanUp()
	c.mu.Lock()
	skipped := c.skipped
	c.mu.Unlock()
	if skipped != "" {
		c.t.Skipf("%s", skipped)
	}
}

// await waits for the body, a little longer than its context lasts.
func (c *scope) await(done <-chan struct{}) {
	c.t.Helper()
	select {
	case <-done:
		return
	case <-c.ctx.Done():
	}
	late := time.NewTimer(c.config.Soon)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		c.Errorf("a call did not come back %v after its context had ended (after %v)", c.config.Soon, c.config.Patience)
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
	}
}

func (c *scope) recoverPanic() {
	if cause := recover(); cause != nil {
		c.Errorf("panic: %v\n%s", cause, debug.Stack())
	}
}

// Errorf reports a failure and goes on.
func (c *scope) Errorf(format string, args ...any) {
	c.report(func() { c.t.Errorf(format, args...) })
}

// Fatalf reports a failure and ends the case; only the case's own goroutine may call it.
func (c *scope) Fatalf(format string, args ...any) {
	c.report(func() { c.t.Errorf(format, args...) })
	runtime.Goexit()
}

// Skipf ends the case, which counts as skipped.
func (c *scope) Skipf(format string, args ...any) {
	c.report(func() { c.skipped = fmt.Sprintf(format, args...) })
	runtime.Goexit()
}

func (c *scope) report(what func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		what()
	}
}
