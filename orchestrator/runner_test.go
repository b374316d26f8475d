package orchestrator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/musterdr/muster/providers/fault"
)

func transient() error { return fault.Newf("test", fault.Transient, "", "try again") }
func invalid() error   { return fault.Newf("test", fault.Invalid, "", "never") }

func stateOf(report *Report, step string) string {
	for _, s := range report.Steps {
		if s.ID == step {
			return s.State
		}
	}
	return "no such step"
}

func TestStepsStartAfterWhatTheyNeed(t *testing.T) {
	r, w := newRunner(t)
	report, err := r.Start(t.Context(), request(t, w,
		"id: last, uses: touch, needs: [left, right]", "id: left, uses: touch, needs: [first]",
		"id: right, uses: touch-each, needs: [first]", "id: first, uses: touch"))
	if err != nil || !report.Complete() {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, order := range [][2]string{{"do first", "do left"}, {"do first", "do right/a"}, {"do left", "do last"}, {"do right/c", "do last"}} {
		if w.position(order[0]) < 0 || w.position(order[0]) > w.position(order[1]) {
			t.Errorf("%q did not come before %q: %v", order[0], order[1], w.calls)
		}
	}
	if lastCheck := w.position("check first"); lastCheck > w.position("do first") {
		t.Error("something was done before everything was checked")
	}
}

// TestStepsRunSideBySide ends only when two steps and two items are at work at the same time.
func TestStepsRunSideBySide(t *testing.T) {
	r, w := newRunner(t)
	meet := make(chan struct{})
	together := func(ctx context.Context) error {
		select {
		case meet <- struct{}{}:
		case <-meet:
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	w.hook["one"], w.hook["two"] = together, together
	w.hook["each/a"], w.hook["each/c"] = together, together
	if _, err := r.Start(t.Context(), request(t, w, "id: one, uses: touch", "id: two, uses: touch", "id: each, uses: touch-each, needs: [one, two]")); err != nil {
		t.Fatal(err)
	}
}

func TestRetryGoesByTheKindOfError(t *testing.T) {
	r, w := newRunner(t)
	w.trouble["patient"] = []error{transient(), transient()}
	w.trouble["strict"] = []error{invalid()}
	report, err := r.Start(t.Context(), request(t, w,
		"id: patient, uses: touch, retry: {attempts: 3, backoff: 1ms}", "id: strict, uses: touch, retry: {attempts: 3, backoff: 1ms}, needs: [patient]",
		"id: after, uses: touch, needs: [strict]"))
	if !fault.Is(err, fault.Invalid) {
		t.Fatal(err)
	}
	if w.count("do patient") != 3 || w.count("do strict") != 1 || w.count("do after") != 0 {
		t.Errorf("calls: %v", w.calls)
	}
	if report.State != RunStateFailed || stateOf(report, "strict") != TaskFailed || stateOf(report, "after") != TaskBlocked {
		t.Errorf("report: %+v", report)
	}
}

func TestARefusedCheckStartsNothing(t *testing.T) {
	r, w := newRunner(t)
	report, err := r.Start(t.Context(), request(t, w, "id: one, uses: touch", "id: two, uses: touch, with: {text: refuse}"))
	if !fault.Is(err, fault.Denied) || report != nil {
		t.Fatalf("%+v, %v", report, err)
	}
	if runs, err := r.Runs(t.Context()); err != nil || len(runs) != 0 || len(w.effects(t)) != 0 {
		t.Errorf("%d runs, %v, effects %v", len(runs), err, w.effects(t))
	}
	if err := r.DryRun(t.Context(), request(t, w, "id: one, uses: touch")); err != nil || len(w.effects(t)) != 0 {
		t.Errorf("dry run: %v, effects %v", err, w.effects(t))
	}
}

func TestOnFailure(t *testing.T) {
	steps := func(policy string) []string {
		return []string{"id: first, uses: touch", "id: broken, uses: touch, needs: [first], onFailure: " + policy,
			"id: beside, uses: touch-each, needs: [first]", "id: after, uses: touch, needs: [broken]"}
	}
	for _, c := range []struct {
		policy, state string
		effects       int
	}{
		{"stop", RunStateFailed, -1}, {"continue", RunStateFailed, 4}, {"undo", RunStateUndone, 0}, {"pause", RunStateInterrupted, -1},
	} {
		t.Run(c.policy, func(t *testing.T) {
			r, w := newRunner(t)
			w.trouble["broken"] = []error{invalid()}
			report, err := r.Start(t.Context(), request(t, w, steps(c.policy)...))
			if err == nil || report.State != c.state {
				t.Fatalf("state %s, %v", report.State, err)
			}
			if effects := w.effects(t); c.effects >= 0 && len(effects) != c.effects {
				t.Errorf("effects: %v", effects)
			}
			if c.policy == "undo" {
				if w.position("undo first") < w.position("undo beside/a") {
					t.Errorf("undone in the wrong order: %v", w.calls)
				}
				return
			}
			report, err = r.Resume(t.Context(), "run-1")
			if err != nil || !report.Complete() || len(w.effects(t)) != 6 || w.count("do first") != 1 {
				t.Errorf("resumed: %+v, %v, effects %v, calls %v", report, err, w.effects(t), w.calls)
			}
		})
	}
}

func TestUndoSaysWhatItLeft(t *testing.T) {
	r, w := newRunner(t)
	w.trouble["broken"] = []error{invalid()}
	w.trouble["undo first"] = []error{fault.Newf("delete volume", fault.Denied, "vol-7", "in use")}
	report, err := r.Start(t.Context(), request(t, w, "id: first, uses: touch", "id: second, uses: touch, needs: [first]",
		"id: broken, uses: touch, needs: [second], onFailure: undo"))
	if err == nil || !strings.Contains(err.Error(), "vol-7") || report.State != RunStateUndoFailed {
		t.Fatalf("%+v, %v", report, err)
	}
	if len(report.Findings) != 1 || report.Findings[0].Severity != Lost || !strings.Contains(report.Findings[0].Text, "rm run-1-first") {
		t.Errorf("the report does not say what is left and how to remove it: %+v", report.Findings)
	}
	if left := w.effects(t); !slices.Equal(left, []string{"run-1-first"}) {
		t.Errorf("the world holds %v", left)
	}
	// Resumed, it tries again, and what was undone already is not touched.
	report, err = r.Resume(t.Context(), "run-1")
	if err != nil || report.State != RunStateUndone || len(w.effects(t)) > 0 || w.count("undo second") != 1 || len(report.Findings) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestResumeRepeatsWhatIsNotVerified(t *testing.T) {
	r, w := newRunner(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.hook["each/b"] = func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	report, err := r.Start(ctx, request(t, w, "id: first, uses: touch", "id: each, uses: touch-each, needs: [first], maxParallel: 1", "id: last, uses: touch, needs: [each]"))
	var interrupted *Interrupted
	if !errors.As(err, &interrupted) || report.State != RunStateInterrupted {
		t.Fatalf("%+v, %v", report, err)
	}
	delete(w.hook, "each/b")
	report, err = r.Resume(t.Context(), "run-1")
	if err != nil || !report.Complete() {
		t.Fatalf("%+v, %v", report, err)
	}
	want := map[string]int{"do first": 1, "do each/a": 1, "do each/b": 2, "do each/c": 1, "do last": 1}
	for call, n := range want {
		if w.count(call) != n {
			t.Errorf("%q was called %d times, want %d", call, w.count(call), n)
		}
	}
	if _, err := r.Resume(t.Context(), "run-1"); !fault.Is(err, fault.Exists) {
		t.Errorf("resumed a completed run: %v", err)
	}
}

func TestTimeoutSpeaksForItself(t *testing.T) {
	r, w := newRunner(t)
	w.hook["slow"] = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	_, err := r.Start(t.Context(), request(t, w, "id: slow, uses: touch, timeout: 10ms, retry: {attempts: 1}"))
	if err == nil || !strings.Contains(err.Error(), "timeout of 10ms") {
		t.Error(err)
	}
}

func TestWhen(t *testing.T) {
	r, w := newRunner(t)
	report, err := r.Start(t.Context(), request(t, w, "id: never, uses: touch, when: 'false'", "id: after, uses: touch, needs: [never]"))
	if err != nil || stateOf(report, "never") != TaskSkipped || !slices.Contains(w.effects(t), "run-1-after") {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestARunLeavesNoGoroutines looks at the second run: the first one opens the journal's own streams.
func TestARunLeavesNoGoroutines(t *testing.T) {
	r, w := newRunner(t)
	first := request(t, w, "id: each, uses: touch-each")
	if _, err := r.Start(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	second := first
	second.ID = "run-2"
	if _, err := r.Start(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}
