package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
)

// TestExitCodes holds every kind to a code of its own: scripts of users tell failures apart by them.
func TestExitCodes(t *testing.T) {
	want := map[fault.Kind]int{
		fault.Internal: 1, fault.Invalid: 2, fault.NotFound: 3, fault.Exists: 4, fault.Denied: 5, fault.Busy: 6,
		fault.Corrupt: 7, fault.Transient: 8, fault.Unsupported: 9, fault.NoSpace: 10,
	}
	for kind := fault.Kind(0); !strings.HasPrefix(kind.String(), "kind-"); kind++ {
		wrapped := fmt.Errorf("step etcd: %w", fault.Newf("test", kind, "", "why"))
		if code := exitCode(wrapped); code != want[kind] {
			t.Errorf("%s ends with %d, want %d", kind, code, want[kind])
		}
	}
	interrupted := &orchestrator.Interrupted{Err: fault.Newf("run plan", fault.Transient, "", "interrupted")}
	for err, code := range map[error]int{nil: 0, errors.New("nobody classified it"): 1, errIncomplete: 20, interrupted: 130} {
		if got := exitCode(err); got != code {
			t.Errorf("%v ends with %d, want %d", err, got, code)
		}
	}
}
