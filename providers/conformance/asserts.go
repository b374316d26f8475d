package conformance

import (
	"slices"
	"strconv"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// must ends the case when a call failed.
func (c *scope) must(op string, err error) {
	if err != nil {
		c.Fatalf("%s: %v (%v)", op, err, fault.KindOf(err))
	}
}

// refused expects a refusal of one of the kinds and goes on.
func (c *scope) refused(op string, err error, kinds ...fault.Kind) {
	if err == nil {
		c.Errorf("%s: it went through; expected a refusal: %v", op, kinds)
		return
	}
	if !slices.Contains(kinds, fault.KindOf(err)) {
		c.Errorf("%s: refused as %v (%v); expected %v", op, fault.KindOf(err), err, kinds)
	}
}

// open gives a client of its own to a case.
func (c *scope) open() providers.Provider {
	p, err := c.config.Open(c.ctx)
	c.must("open another client", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened = append(c.opened, p)
	return p
}

// other is a second client, which has made nothing: what it knows, another process knows.
func (c *scope) other() providers.Provider {
	p, err := c.secondClient(c.ctx)
	c.must("open a second client", err)
	return p
}

// token is a new one; the names of two cases, and of two runs, differ.
func (c *scope) token() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens++
	return c.config.Run + "-" + c.name + "-" + strconv.Itoa(c.tokens)
}

// tags are those of everything that the case makes.
func (c *scope) tags() map[string]string {
	return map[string]string{providers.TagRun: c.config.Run, providers.TagStep: c.name}
}
