package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// say is touch that tells what its settings are.
type say struct {
	Text string `yaml:"text"`
	touch
}

func (s *say) Do(ctx context.Context, run *Run, prior Receipt) (Receipt, error) {
	s.world.called("say " + taskOf(run) + ": " + s.Text)
	if _, err := s.touch.Do(ctx, run, prior); err != nil {
		return nil, err
	}
	return Receipt(fmt.Sprintf(`{"said": %q, "length": %d}`, s.Text, len(s.Text))), nil
}

func (s *say) Undo(ctx context.Context, run *Run, receipt Receipt) error {
	s.world.called("unsay " + taskOf(run) + ": " + s.Text)
	return s.touch.Undo(ctx, run, receipt)
}

const talkative = `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: talk}
spec:
  purpose: drill
  parameters:
    name: {type: string}
    names: {type: list, default: [a, b]}
  steps:
    - {id: hello, uses: say, with: {text: "hello ${ params.name }"}}
    - id: more
      uses: include-plan
      needs: [hello]
      with: {plan: echo, parameters: {text: "${ receipts.hello.said } (${ receipts.hello.length })", names: "${ params.names }"}}
    - {id: never, uses: include-plan, when: params.name == "", with: {plan: echo, parameters: {text: x, names: []}}}
    - {id: last, uses: say, needs: [more, never], with: {text: "${ receipts['more.first'].said }!"}}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: echo}
spec:
  purpose: drill
  parameters: {text: {type: string}, names: {type: list}}
  steps:
    - {id: first, uses: say, with: {text: "${ params.text }"}}
    - {id: each, uses: say, needs: [first], forEach: params.names, with: {text: "${ item }: ${ receipts.first.length }"}}
`

// talking is a request for a plan whose steps say things.
func talking(t *testing.T, r *Runner, w *world, text string, settings ...plans.Setting) Request {
	t.Helper()
	r.definitions["say"] = Definition{ID: "say", Purposes: []plans.Purpose{plans.Drill}, New: func() Step { return &say{touch: touch{world: w}} }}
	set, err := plans.Read("talk.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	checked, err := plans.CheckSteps(set, "talk", Vocabulary{r.definitions["say"]}, settings...)
	if err != nil {
		t.Fatal(err)
	}
	return Request{ID: "run-1", Plan: checked}
}

func (w *world) said(t *testing.T, prefix string) []string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, call := range w.calls {
		if text, ok := strings.CutPrefix(call, prefix+" "); ok {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

func TestSettingsAreEvaluatedWhenTheStepStarts(t *testing.T) {
	r, w := newRunner(t)
	report, err := r.Start(t.Context(), talking(t, r, w, talkative, plans.Setting{Name: "name", Text: "you"}))
	if err != nil || !report.Complete() {
		t.Fatalf("%+v, %v", report, err)
	}
	want := []string{
		"hello: hello you", "last: hello you (9)!", "more.each/a: a: 13", "more.each/b: b: 13", "more.first: hello you (9)",
	}
	if got := w.said(t, "say"); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if stateOf(report, "never.first") != TaskSkipped || stateOf(report, "never.each") != TaskSkipped {
		t.Errorf("the report is %+v", report.Steps)
	}
	for _, step := range []string{"more.first", "more.each/a", "last"} {
		if w.count("check "+step) != 1 || w.position("check "+step) > w.position("do "+step) || w.position("check "+step) < w.position("do hello") {
			t.Errorf("%s was not checked between what it reads and what it does: %v", step, w.calls)
		}
	}
}

// TestSettingsAreTheSameInAnotherProcess lets a step fail whose settings hold the time, goes on later,
// and undoes it later still.
func TestSettingsAreTheSameInAnotherProcess(t *testing.T) {
	r, w := newRunner(t)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r.Now = func() time.Time { at = at.Add(time.Minute); return at }
	const text = `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: talk}
spec:
  purpose: drill
  steps:
    - {id: one, uses: say, retry: {attempts: 2, backoff: 1ms}, with: {text: "at ${ now }"}}
    - {id: two, uses: say, needs: [one], onFailure: undo}
`
	w.trouble["one"] = []error{transient(), invalid()}
	w.trouble["two"] = []error{invalid()}
	if _, err := r.Start(t.Context(), talking(t, r, w, text)); !fault.Is(err, fault.Invalid) {
		t.Fatal(err)
	}
	report, err := r.Resume(t.Context(), "run-1")
	if !fault.Is(err, fault.Invalid) || report.State != RunStateUndone {
		t.Fatalf("%+v, %v", report, err)
	}
	said := slices.Concat(w.said(t, "say")[:3], w.said(t, "unsay"))
	// Three tries say it (and two says nothing), and one undo.
	if len(said) != 4 || len(slices.Compact(said)) != 1 || !strings.HasPrefix(said[0], "one: at 2026-03-01T12:") {
		t.Errorf("said %q", said)
	}
}

func TestSettingsThatCannotBeEvaluated(t *testing.T) {
	r, w := newRunner(t)
	const text = `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: talk}
spec:
  purpose: drill
  steps:
    - {id: one, uses: say}
    - {id: two, uses: say, needs: [one], with: {text: "${ receipts.one.length }"}}
    - {id: three, uses: say, needs: [one], with: {text: "${ receipts.one.none }"}}
`
	report, err := r.Start(t.Context(), talking(t, r, w, text))
	if !fault.Is(err, fault.Invalid) || report.State != RunStateFailed {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, want := range []string{"two: read settings: text: want text, found a number", "three: evaluate with three: text: receipts.one.none: no such key: none"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}
	if w.count("do two")+w.count("do three") != 0 {
		t.Errorf("calls: %v", w.calls)
	}
}
