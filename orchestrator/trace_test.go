package orchestrator

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/musterdr/muster/state/journal"
)

// traced makes a runner tell its spans to memory.
func traced(t *testing.T, r *Runner) *tracetest.InMemoryExporter {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithIDGenerator(SpanIDs{}))
	r.Observer = Observers{All: []Observer{deaf{}}, PerRun: []func(RunInfo) Observer{Tracing(provider.Tracer("test"))}}
	return spans
}

// tree draws spans below their parents, one a line, siblings by name. It fails when a span has no
// parent among them, or two have the same ID.
func tree(t *testing.T, spans tracetest.SpanStubs) string {
	t.Helper()
	children, known := map[string][]tracetest.SpanStub{}, map[string]bool{"": true}
	for _, s := range spans {
		id := s.SpanContext.SpanID().String()
		if known[id] {
			t.Errorf("span %s was told twice", s.Name)
		}
		known[id] = true
		if s.SpanContext.TraceID() != TraceID("run-1") {
			t.Errorf("span %s belongs to another trace", s.Name)
		}
		parent := ""
		if s.Parent.IsValid() {
			parent = s.Parent.SpanID().String()
		}
		children[parent] = append(children[parent], s)
		if s.EndTime.Before(s.StartTime) {
			t.Errorf("span %s ends before it begins", s.Name)
		}
	}
	for parent, of := range children {
		if !known[parent] {
			t.Errorf("the parent of %s is missing", of[0].Name)
		}
	}
	var b strings.Builder
	var draw func(parent, margin string)
	draw = func(parent, margin string) {
		slices.SortFunc(children[parent], func(a, b tracetest.SpanStub) int {
			return strings.Compare(a.Name+attributeOf(a, "muster.run.state"), b.Name+attributeOf(b, "muster.run.state"))
		})
		for _, s := range children[parent] {
			b.WriteString(margin + spanText(s) + "\n")
			draw(s.SpanContext.SpanID().String(), margin+"  ")
		}
	}
	draw("", "")
	return b.String()
}

func attributeOf(s tracetest.SpanStub, key string) string {
	for _, a := range s.Attributes {
		if a.Key == attribute.Key(key) {
			return a.Value.String()
		}
	}
	return ""
}

func spanText(s tracetest.SpanStub) string {
	text := s.Name
	for _, key := range []string{"muster.run.state", "muster.task.state", "muster.attempts"} {
		if value := attributeOf(s, key); value != "" {
			text += " " + value
		}
	}
	for _, e := range s.Events {
		text += " [" + e.Name + "]"
	}
	if s.Status.Code == codes.Error {
		text += ": " + s.Status.Description
	}
	return text
}

func want(t *testing.T, got string, lines ...string) {
	t.Helper()
	if expected := strings.Join(lines, "\n") + "\n"; got != expected {
		t.Errorf("got\n%swant\n%s", got, expected)
	}
}

func TestTrace(t *testing.T) {
	r, w := newRunner(t)
	spans := traced(t, r)
	w.trouble["one"] = []error{transient()}
	w.trouble["each/b"] = []error{invalid()}
	if _, err := r.Start(t.Context(), request(t, w,
		"id: one, uses: touch, retry: {backoff: 1ms}", "id: each, uses: touch-each, needs: [one], onFailure: continue",
		"id: after, uses: touch, needs: [each]", "id: left-out, uses: touch, when: 'false'")); err == nil {
		t.Fatal("it did not fail")
	}
	want(t, tree(t, spans.GetSpans()),
		"run p failed [step.skipped] [step.blocked] [exception]: step each, b: test: never",
		"  step each [exception]: b: test: never",
		"    item each/a verified 1 [receipt]",
		"    item each/b failed 1 [exception]: test: never",
		"    item each/c verified 1 [receipt]",
		"  step one verified 2 [retry] [receipt]")
	for _, s := range spans.GetSpans() {
		if s.Name == "item each/b" && (s.Events[0].Name != "exception" || s.Events[0].Attributes[0].Value.AsString() != "invalid") {
			t.Errorf("exception: %+v", s.Events)
		}
		if s.Name == "step each" && (attributeOf(s, "muster.step.uses") != "touch-each" || attributeOf(s, "muster.step.items") != "3") {
			t.Errorf("step: %+v", s.Attributes)
		}
	}
	spans.Reset()
	if _, err := r.Resume(t.Context(), "run-1"); err != nil {
		t.Fatal(err)
	}
	got := spans.GetSpans()
	for i := range got { // its parent is the span that the first process told
		if got[i].Name == "run p" {
			if got[i].Parent.SpanID() != spanID("run-1", 1) {
				t.Errorf("the parent is %s", got[i].Parent.SpanID())
			}
			got[i].Parent = got[i].Parent.WithSpanID([8]byte{})
		}
	}
	want(t, tree(t, got),
		"run p completed",
		"  step after verified 1 [receipt]",
		"  step each",
		"    item each/b verified 2 [receipt]")
}

// TestTraceOfAProcessThatDied puts together what two processes told, one of which died in the middle.
func TestTraceOfAProcessThatDied(t *testing.T) {
	r, w := newRunner(t)
	spans := traced(t, r)
	x, err := r.prepare(t.Context(), request(t, w, "id: one, uses: touch", "id: each, uses: touch-each"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Store.Create(t.Context(), x.header); err != nil {
		t.Fatal(err)
	}
	if x.journal, err = r.Store.Acquire(t.Context(), "run-1"); err != nil {
		t.Fatal(err)
	}
	for _, e := range []journal.Event{
		{Type: RunStarted}, {Type: StepIntent, Step: "one", Attempt: 1}, {Type: StepReceipt, Step: "one", Attempt: 1, Data: []byte(`{}`)},
		{Type: StepItems, Step: "each", Data: []byte(`["a","b","c"]`)}, {Type: StepIntent, Step: "each", Item: "a", Attempt: 1},
		{Type: StepIntent, Step: "each", Item: "b", Attempt: 1}, {Type: StepReceipt, Step: "each", Item: "a", Attempt: 1, Data: []byte(`{}`)},
		{Type: StepVerified, Step: "each", Item: "a", Attempt: 1},
	} {
		e.Time = time.Now().UTC()
		if err := x.ledger.record(t.Context(), e, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.journal.Release(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if told := spans.GetSpans(); len(told) != 1 || told[0].Name != "item each/a" {
		t.Errorf("the process that died told %v", told)
	}
	if _, err := r.Resume(t.Context(), "run-1"); err != nil {
		t.Fatal(err)
	}
	want(t, tree(t, spans.GetSpans()),
		"run p interrupted [exception]: the process that ran it died",
		"  run p completed",
		"    step each",
		"      item each/b verified 2 [receipt]",
		"      item each/c verified 1 [receipt]",
		"    step one verified 2 [receipt]",
		"  step each",
		"    item each/a verified 1 [receipt]",
		"    item each/b interrupted 1",
		"  step one interrupted 1 [receipt]")
}

func TestTraceOfAnUndo(t *testing.T) {
	r, w := newRunner(t)
	spans := traced(t, r)
	w.trouble["undo good"] = []error{invalid()}
	if _, err := r.Start(t.Context(), request(t, w, "id: good, uses: touch", "id: bad, uses: fail, needs: [good], onFailure: undo")); err == nil {
		t.Fatal("it did not fail")
	}
	if _, err := r.Resume(t.Context(), "run-1"); err != nil {
		t.Fatal(err)
	}
	got := tree(t, spans.GetSpans())
	for _, line := range []string{"\n  undo [exception]: undo run run-1: undo left things", "\n    undo good [exception]: test: never; left: rm run-1-good\n", "\n  run p undone\n    undo\n      undo good\n"} {
		if !strings.Contains("\n"+got, line) {
			t.Errorf("%q is missing in\n%s", line, got)
		}
	}
}

func TestObserversOfSeveralRuns(t *testing.T) {
	r, w := newRunner(t)
	made := map[string]int{}
	r.Observer = Observers{PerRun: []func(RunInfo) Observer{func(run RunInfo) Observer {
		made[run.Header.ID]++
		if run.Report().Run != run.Header.ID || run.Header.Frozen != nil || len(run.Steps) != 1 {
			t.Errorf("%+v", run)
		}
		return deaf{}
	}}}
	for _, id := range []string{"run-1", "run-2"} {
		wanted := request(t, w, "id: one, uses: touch")
		wanted.ID = id
		if _, err := r.Start(t.Context(), wanted); err != nil {
			t.Fatal(err)
		}
	}
	if made["run-1"] != 1 || made["run-2"] != 1 {
		t.Errorf("observers: %v", made)
	}
}
