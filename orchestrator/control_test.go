package orchestrator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

var commands atomic.Int64

func command(verb, step string) journal.Command {
	id := time.Unix(commands.Add(1), 0).UTC().Format(time.RFC3339)
	return journal.Command{ID: id, Verb: verb, Step: step, By: "ann@desk", Reason: "because", Time: time.Unix(1, 0).UTC()}
}

// begun starts a run in the background and returns when its step "slow" is at work; finish lets that
// go on, and ended gives the run's end.
func begun(t *testing.T, r *Runner, w *world, steps ...string) (finish func(), ended func() (*Report, error)) {
	t.Helper()
	began, goOn := make(chan struct{}), make(chan struct{})
	w.hook["slow"] = func(ctx context.Context) error {
		close(began)
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	type end struct {
		report *Report
		err    error
	}
	result := make(chan end, 1)
	wanted := request(t, w, steps...)
	go func() {
		report, err := r.Start(context.WithoutCancel(t.Context()), wanted)
		result <- end{report, err}
	}()
	select {
	case <-began:
	case e := <-result:
		t.Fatalf("it ended before it was slow: %v", e.err)
	}
	return func() { close(goOn) }, func() (*Report, error) { e := <-result; return e.report, e.err }
}

func obeyed(t *testing.T, r *Runner, c journal.Command) {
	t.Helper()
	if err := r.Command(t.Context(), "run-1", c); err != nil {
		t.Fatalf("%s: %v", c.Verb, err)
	}
}

func TestCancel(t *testing.T) {
	r, w := newRunner(t)
	_, ended := begun(t, r, w, "id: slow, uses: touch")
	obeyed(t, r, command(VerbCancel, ""))
	report, err := ended()
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "cancelled by ann@desk: because") || report.State != RunStateCancelled {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := r.Resume(t.Context(), "run-1"); !fault.Is(err, fault.Exists) {
		t.Errorf("a cancelled run goes on: %v", err)
	}
}

func TestCancelWithUndo(t *testing.T) {
	r, w := newRunner(t)
	_, ended := begun(t, r, w, "id: first, uses: touch-each", "id: slow, uses: touch, needs: [first]")
	obeyed(t, r, command(VerbUndo, ""))
	report, err := ended()
	if err == nil || report.State != RunStateUndone || len(w.effects(t)) > 0 {
		t.Errorf("%+v, %v: the world holds %v", report, err, w.effects(t))
	}
}

func TestPauseFinishesWhatRuns(t *testing.T) {
	r, w := newRunner(t)
	finish, ended := begun(t, r, w, "id: slow, uses: touch", "id: last, uses: touch, needs: [slow]")
	obeyed(t, r, command(VerbPause, ""))
	finish()
	report, err := ended()
	var interrupted *Interrupted
	if !errors.As(err, &interrupted) || report.State != RunStatePaused || stateOf(report, "slow") != TaskVerified || stateOf(report, "last") != TaskPending {
		t.Fatalf("%+v, %v", report, err)
	}
	if err := r.Command(t.Context(), "run-1", command(VerbPause, "")); !fault.Is(err, fault.Invalid) {
		t.Errorf("pause of a paused run: %v", err)
	}
	report, err = r.Resume(t.Context(), "run-1")
	if err != nil || !report.Complete() || w.count("do slow") != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestRetryWhileOthersRun(t *testing.T) {
	r, w := newRunner(t)
	w.trouble["fails"] = []error{invalid()}
	finish, ended := begun(t, r, w, "id: fails, uses: touch", "id: after, uses: touch, needs: [fails]", "id: slow, uses: touch")
	awaitState(t, r, "fails", TaskFailed)
	obeyed(t, r, command(VerbRetry, "fails"))
	awaitState(t, r, "after", TaskVerified)
	finish()
	if report, err := ended(); err != nil || !report.Complete() {
		t.Errorf("%+v, %v", report, err)
	}
}

// awaitState waits until the journal says so.
func awaitState(t *testing.T, r *Runner, step, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reached := errors.New("reached")
	err := r.Store.Watch(ctx, "run-1", 0, func(journal.Event) error {
		report, err := r.Report(ctx, "run-1")
		if err == nil && stateOf(report, step) == state {
			return reached
		}
		return err
	})
	if !errors.Is(err, reached) {
		t.Fatalf("step %s does not become %s: %v", step, state, err)
	}
}

func TestRetryAndSkipOfAFailedRun(t *testing.T) {
	r, w := newRunner(t)
	w.trouble["fails"] = []error{invalid(), invalid()}
	steps := []string{"id: fails, uses: touch", "id: after, uses: touch, needs: [fails]"}
	if report, err := r.Start(t.Context(), request(t, w, steps...)); err == nil || report.State != RunStateFailed {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, c := range []struct {
		command journal.Command
		kind    fault.Kind
	}{
		{command(VerbRetry, "no-such"), fault.NotFound},
		{command(VerbRetry, "after"), fault.Invalid},
		{command(VerbApprove, "fails"), fault.Invalid},
		{command("dance", "fails"), fault.Unsupported},
	} {
		if err := r.Command(t.Context(), "run-1", c.command); !fault.Is(err, c.kind) {
			t.Errorf("%s %s: %v, want %s", c.command.Verb, c.command.Step, err, c.kind)
		}
	}
	obeyed(t, r, command(VerbRetry, "fails"))
	if report, err := r.Resume(t.Context(), "run-1"); err == nil || report.State != RunStateFailed {
		t.Fatalf("%+v, %v", report, err)
	}
	obeyed(t, r, command(VerbSkip, "fails"))
	report, err := r.Resume(t.Context(), "run-1")
	if err != nil || stateOf(report, "fails") != TaskSkipped || stateOf(report, "after") != TaskVerified {
		t.Fatalf("%+v, %v", report, err)
	}
	if report.Complete() || len(report.Findings) != 1 || !strings.Contains(report.Findings[0].Text, "skipped by ann@desk: because") {
		t.Errorf("a run with a skipped step counts as complete: %+v", report.Findings)
	}
}

func TestDecisions(t *testing.T) {
	r, w := newRunner(t)
	wanted := request(t, w, "id: decide, uses: ask", "id: after, uses: touch, needs: [decide]")
	ended := make(chan error, 1)
	go func() {
		_, err := r.Start(context.WithoutCancel(t.Context()), wanted)
		ended <- err
	}()
	awaitState(t, r, "decide", TaskRunning)
	decision := command(VerbApprove, "decide")
	decision.As, decision.Values = "guest", map[string]any{"ticket": "T-1"}
	if err := r.Command(t.Context(), "run-1", decision); err == nil || !strings.Contains(err.Error(), "only lead decides") {
		t.Fatalf("a guest decides: %v", err)
	}
	decision = command(VerbApprove, "decide")
	decision.As, decision.Values = "lead", map[string]any{"ticket": "T-1"}
	obeyed(t, r, decision)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	events, err := r.Store.Events(t.Context(), "run-1", 0)
	if err != nil {
		t.Fatal(err)
	}
	decided := slices.IndexFunc(events, func(e journal.Event) bool { return e.Type == StepDecided })
	if decided < 0 || !strings.Contains(string(events[decided].Data), `"as":"lead"`) || !strings.Contains(string(events[decided].Data), "ann@desk") {
		t.Errorf("the journal does not say who decided: %v", events)
	}
}

func TestADecisionBeforeItIsAskedFor(t *testing.T) {
	r, w := newRunner(t)
	w.trouble["first"] = []error{invalid()}
	if _, err := r.Start(t.Context(), request(t, w, "id: first, uses: touch", "id: decide, uses: ask, needs: [first]")); err == nil {
		t.Fatal("it did not fail")
	}
	decision := command(VerbReject, "decide")
	decision.As = "lead"
	obeyed(t, r, decision)
	report, err := r.Resume(t.Context(), "run-1")
	if !fault.Is(err, fault.Denied) || stateOf(report, "decide") != TaskFailed {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestAPauseEndsWaiting pauses a run that waits for a decision; resumed, it waits again.
func TestAPauseEndsWaiting(t *testing.T) {
	r, w := newRunner(t)
	wanted := request(t, w, "id: decide, uses: ask")
	ended := make(chan error, 1)
	go func() {
		_, err := r.Start(context.WithoutCancel(t.Context()), wanted)
		ended <- err
	}()
	awaitState(t, r, "decide", TaskRunning)
	obeyed(t, r, command(VerbPause, ""))
	var interrupted *Interrupted
	if err := <-ended; !errors.As(err, &interrupted) {
		t.Fatal(err)
	}
	decision := command(VerbApprove, "decide")
	decision.As = "lead"
	obeyed(t, r, decision)
	if report, err := r.Resume(t.Context(), "run-1"); err != nil || !report.Complete() {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestTwoRunsOnOneLayer(t *testing.T) {
	r, w := newRunner(t)
	plan := func() *plans.Checked {
		checked, err := planOf(w.definitions(), "id: slow, uses: touch-layer")
		if err != nil {
			t.Fatal(err)
		}
		checked.Cluster = &plans.Cluster{Metadata: plans.Metadata{Name: "prod"}}
		return checked
	}
	began, goOn := make(chan struct{}), make(chan struct{})
	w.hook["slow"] = func(context.Context) error { close(began); <-goOn; return nil }
	ended := make(chan error, 1)
	go func() {
		_, err := r.Start(context.WithoutCancel(t.Context()), Request{ID: "run-1", Plan: plan()})
		ended <- err
	}()
	<-began
	_, err := r.Start(t.Context(), Request{ID: "run-2", Plan: plan()})
	if !fault.Is(err, fault.Busy) || !strings.Contains(err.Error(), "run-1") || !strings.Contains(err.Error(), "cluster/prod/files") {
		t.Errorf("the second run: %v", err)
	}
	close(goOn)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	w.hook["slow"] = nil
	if report, err := r.Resume(t.Context(), "run-2"); err != nil || !report.Complete() {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestOptionalSteps(t *testing.T) {
	r, w := newRunner(t)
	w.trouble["extra"] = []error{invalid()}
	report, err := r.Start(t.Context(), request(t, w, "id: extra, uses: touch, optional: true", "id: after, uses: touch, needs: [extra]"))
	if err != nil || !report.Complete() || stateOf(report, "extra") != TaskFailed || stateOf(report, "after") != TaskVerified {
		t.Fatalf("%+v, %v", report, err)
	}
	if len(report.Findings) != 1 || report.Findings[0].Severity != Changed || !strings.Contains(report.Findings[0].Text, "optional") {
		t.Errorf("the report does not tell of it: %+v", report.Findings)
	}
}

func TestDeadline(t *testing.T) {
	r, w := newRunner(t)
	w.hook["slow"] = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	wanted := request(t, w, "id: slow, uses: touch")
	wanted.Plan.Plan.Spec.Deadline = plans.Duration(50 * time.Millisecond)
	report, err := r.Start(t.Context(), wanted)
	if !fault.Is(err, fault.Transient) || !strings.Contains(err.Error(), "deadline of 50ms") || report.State != RunStateFailed {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestNamedLocksAndWaiting(t *testing.T) {
	r, w := newRunner(t)
	began, goOn := make(chan struct{}), make(chan struct{})
	w.hook["slow"] = func(context.Context) error { close(began); <-goOn; return nil }
	wanted := func(id string, onLocked plans.OnLocked) Request {
		request := request(t, w, "id: slow, uses: touch, locks: [dns]")
		request.ID, request.Plan.Plan.Spec.OnLocked = id, onLocked
		return request
	}
	ended := make(chan error, 2)
	start := func(request Request) {
		_, err := r.Start(context.WithoutCancel(t.Context()), request)
		ended <- err
	}
	first, waits, refused := wanted("run-1", ""), wanted("run-2", plans.OnLockedWait), wanted("run-3", plans.OnLockedRefuse)
	go start(first)
	<-began
	w.hook["slow"] = nil
	if _, err := r.Start(t.Context(), refused); !fault.Is(err, fault.Busy) || !strings.Contains(err.Error(), "lock/dns") {
		t.Errorf("refused: %v", err)
	}
	go start(waits)
	close(goOn)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if len(w.effects(t)) != 2 {
		t.Errorf("the world holds %v", w.effects(t))
	}
}
