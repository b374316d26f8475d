// Package conformancetest runs the conformance suite in a test.
package conformancetest

import (
	"testing"

	"github.com/musterdr/muster/providers/conformance"
)

// Run runs the suite; each case is a subtest.
func Run(t *testing.T, config conformance.Config) {
	t.Helper()
	conformance.Run(adapter{t}, config)
}

type adapter struct{ *testing.T }

// Run implements conformance.T.
func (a adapter) Run(name string, body func(conformance.T)) bool {
	return a.T.Run(name, func(t *testing.T) { body(adapter{t}) })
}
