package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/state/journal"
)

func TestBarTellsRateAndEstimate(t *testing.T) {
	now := time.Unix(1000, 0)
	s := &stepBar{now: func() time.Time { return now }, began: now, tasks: map[string]orchestrator.Update{}, verified: map[string]bool{}, expected: 1, state: "runs"}
	expect := func(want string) {
		t.Helper()
		if got := s.text(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	expect("runs")
	s.expand(journal.Event{Data: json.RawMessage(`["a","b","c","d"]`)})
	s.progressed(orchestrator.Update{Item: "a", Status: "looking at a"})
	expect("looking at a")
	now = now.Add(10 * time.Second)
	s.progressed(orchestrator.Update{Item: "a", Done: orchestrator.Amount{Bytes: 5 << 20}, Total: orchestrator.Amount{Bytes: 10 << 20}})
	expect("0/4  5.0 MiB  512.0 KiB/s  1m10s left")
	s.finish("a", "done")
	expect("1/4  5.0 MiB  512.0 KiB/s  30s left")
	for _, item := range []string{"b", "c", "d"} {
		s.finish(item, "done")
	}
	now = now.Add(time.Hour) // it has ended: the rate stays what it was
	expect("done  5.0 MiB  512.0 KiB/s")
}

func TestBarOfStepWithoutTotals(t *testing.T) {
	now := time.Unix(1000, 0)
	s := &stepBar{now: func() time.Time { return now }, began: now, tasks: map[string]orchestrator.Update{}, verified: map[string]bool{}, expected: 1, state: "runs"}
	now = now.Add(2 * time.Second)
	s.progressed(orchestrator.Update{Done: orchestrator.Amount{Items: 500}})
	if got, want := s.text(), "runs  500 items  250/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.progressed(orchestrator.Update{Done: orchestrator.Amount{Items: 500}, Total: orchestrator.Amount{Items: 500}})
	if share := s.share(); share >= 1 {
		t.Error("a step that is not verified shows as done")
	}
	s.fail("failed")
	if got, want := s.text(), "failed  500 items  250/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
