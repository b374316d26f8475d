package cluster

import (
	"context"
	"errors"
	"testing"
)

func TestTurnstileFollowsTheServersPatience(t *testing.T) {
	gate := newTurnstile(4)
	enterAll := func() (inside int) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // who would have to wait gives up
		for gate.enter(ctx) == nil {
			inside++
		}
		return inside
	}
	leaveAll := func(inside int, answered bool) {
		for range inside {
			gate.leave(answered)
		}
	}
	for _, step := range []struct {
		refusals int
		want     int
		answered bool // what becomes of those that came in
	}{
		{0, 4, true}, {1, 2, false}, {0, 2, true}, {0, 3, true}, {0, 4, true}, {0, 4, true}, {5, 1, true}, {0, 2, true},
	} {
		for range step.refusals {
			gate.narrow()
		}
		inside := enterAll()
		if inside != step.want {
			t.Errorf("after %d refusals %d come in, want %d", step.refusals, inside, step.want)
		}
		leaveAll(inside, step.answered)
	}
	inside := enterAll()
	entered := make(chan error)
	go func() { entered <- gate.enter(t.Context()) }()
	gate.leave(true)
	if err := <-entered; err != nil {
		t.Error(err)
	}
	leaveAll(inside, true)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	for range gate.limit {
		if err := gate.enter(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := gate.enter(ctx); err == nil || err.Error() != "enough" {
		t.Errorf("who gave up got %v", err)
	}
}
