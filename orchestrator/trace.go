package orchestrator

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/musterdr/muster/state/journal"
)

// TraceID is the trace of a run: the first 16 bytes of the SHA-256 of its ID. The spans of all processes
// that ever work on the run belong to it.
func TraceID(run string) trace.TraceID {
	sum := sha256.Sum256([]byte(run))
	return trace.TraceID(sum[:16])
}

// spanID is the span that an event began. Another process that reads the journal comes to the same one.
func spanID(run string, sequence int64) trace.SpanID {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(run+"\x00"), uint64(sequence)))
	return trace.SpanID(sum[:8])
}

type spanKey struct{}

// ids is what a span that is about to be made is called.
type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

// SpanIDs gives spans the IDs that Tracing derived from the journal. It is an IDGenerator of OpenTelemetry's
// SDK, which Tracing's tracer must have.
type SpanIDs struct{}

// NewIDs implements IDGenerator.
func (SpanIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if known, ok := ctx.Value(spanKey{}).(ids); ok {
		return known.trace, known.span
	}
	var random ids
	_, _ = rand.Read(random.trace[:]) // crypto/rand.Read never fails
	_, _ = rand.Read(random.span[:])
	return random.trace, random.span
}

// NewSpanID implements IDGenerator.
func (s SpanIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, span := s.NewIDs(ctx)
	return span
}

// Tracing is for Observers.PerRun: it makes spans of a run's events. A span is of the run while one
// process works on it, of a step, or of an item; it is made by the process that journals its end, so that
// what a process left open when it died is told by the one that takes the run over. The first span of a
// run is the parent of the later ones.
func Tracing(tracer trace.Tracer) func(RunInfo) Observer {
	return func(run RunInfo) Observer {
		t := &runTrace{tracer: tracer, run: run, steps: map[string]*stepTrace{}}
		for _, step := range run.Steps {
			t.steps[step.ID] = &stepTrace{id: step.ID, uses: step.Uses, items: map[string]*span{}, ended: map[string]bool{}}
		}
		return t
	}
}

// runTrace is what is known of one run's spans.
type runTrace struct {
	tracer trace.Tracer
	run    RunInfo

	mu       sync.Mutex
	past     bool // the events are of earlier processes, which told them
	first    trace.SpanID
	session  *span
	undo     *span
	undoFrom time.Time // when the undo of the next task began
	steps    map[string]*stepTrace
}

// stepTrace is one step's.
type stepTrace struct {
	id, uses string
	total    int // items; 0 for a step without
	open     *span
	items    map[string]*span // open
	ended    map[string]bool  // items, and whether well
	last     time.Time        // the newest end of an item
}

// span is one that has begun.
type span struct {
	name       string
	id, parent trace.SpanID
	start      time.Time
	attributes []attribute.KeyValue
	notes      []note
	failure    *Failure
}

// note is an event of a span.
type note struct {
	name       string
	at         time.Time
	attributes []attribute.KeyValue
}

// Journaled implements Observer.
func (t *runTrace) Journaled(event journal.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.see(event)
}

// Replayed implements Observer.
func (t *runTrace) Replayed(events []journal.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.past = true
	for _, event := range events {
		t.see(event)
	}
	t.past = false
}

// Progressed implements Observer.
func (t *runTrace) Progressed(Update) {}

func (t *runTrace) see(event journal.Event) {
	if strings.HasPrefix(event.Type, "run.") {
		t.seeRun(event)
		return
	}
	step := t.steps[event.Step]
	if step == nil || t.session == nil {
		return // a command for a run that nobody works on
	}
	switch event.Type {
	case StepUndone, StepUndoFailed:
		t.seeUndone(step, event)
	case StepDecided, StepSkipped, StepBlocked, StepReset:
		t.session.note(event.Type, event.Time, append(decisionOf(event), attribute.String("muster.step.id", step.id))...)
	default:
		t.seeStep(step, event)
	}
}

func (t *runTrace) seeRun(event journal.Event) {
	switch event.Type {
	case RunStarted, RunResumed:
		t.begin(event)
	case RunUndoing:
		t.begin(event)
		t.undo = &span{name: "undo", id: spanID(t.run.Header.ID, -event.Sequence), parent: t.session.id, start: event.Time}
		t.undoFrom = event.Time
	case RunPausing, RunCancelling:
		if t.session != nil {
			t.session.note(event.Type, event.Time, decisionOf(event)...)
		}
	default:
		t.end(event)
	}
}

// begin opens the span of one process's work, unless it is open.
func (t *runTrace) begin(event journal.Event) {
	if t.session != nil {
		return
	}
	h := t.run.Header
	t.session = &span{
		name: "run " + h.Plan, id: spanID(h.ID, event.Sequence), parent: t.first, start: event.Time,
		attributes: []attribute.KeyValue{
			attribute.String("muster.run.id", h.ID), attribute.String("muster.plan.name", h.Plan), attribute.String("muster.plan.digest", h.PlanDigest),
			attribute.String("muster.purpose", h.Purpose), attribute.Bool("muster.run.resumed", t.first.IsValid()),
		},
	}
	if h.Cluster != "" {
		t.session.attributes = append(t.session.attributes, attribute.String("muster.cluster.name", h.Cluster))
	}
	if !t.first.IsValid() {
		t.first = t.session.id
	}
}

// end closes all that is open: the run has ended, or stands still.
func (t *runTrace) end(event journal.Event) {
	if t.session == nil {
		return // it was interrupted before it began
	}
	for _, spec := range t.run.Steps { // in the plan's order
		step := t.steps[spec.ID]
		for item := range step.items {
			t.endItem(step, item, event.Time, nil)
		}
		if step.open != nil {
			t.endStep(step, event.Time)
		}
	}
	if t.undo != nil {
		t.undo.failure = failureOf(event)
		t.tell(t.undo, event.Time)
	}
	if event.Type != RunCompleted && event.Type != RunUndone && event.Type != RunPaused {
		t.session.failure = failureOf(event)
	}
	t.session.attributes = append(t.session.attributes, attribute.String("muster.run.state", strings.TrimPrefix(event.Type, "run.")))
	t.tell(t.session, event.Time)
	t.session, t.undo = nil, nil
}

// tell makes the span. What earlier processes ended, they told.
func (t *runTrace) tell(s *span, end time.Time) {
	if t.past {
		return
	}
	id := TraceID(t.run.Header.ID)
	ctx := context.WithValue(context.Background(), spanKey{}, ids{id, s.id})
	if s.parent.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: s.parent, TraceFlags: trace.FlagsSampled}))
	}
	_, made := t.tracer.Start(ctx, s.name, trace.WithTimestamp(s.start), trace.WithAttributes(s.attributes...))
	for _, n := range s.notes {
		made.AddEvent(n.name, trace.WithTimestamp(n.at), trace.WithAttributes(n.attributes...))
	}
	if s.failure != nil {
		made.SetStatus(codes.Error, s.failure.Error)
		made.AddEvent("exception", trace.WithTimestamp(end), trace.WithAttributes(exception(s.failure)...))
	}
	if end.Before(s.start) { // two clocks
		end = s.start
	}
	made.End(trace.WithTimestamp(end))
}

func (s *span) note(name string, at time.Time, attributes ...attribute.KeyValue) {
	s.notes = append(s.notes, note{name, at, attributes})
}

// exception are the attributes that OpenTelemetry gives to an error.
func exception(f *Failure) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("exception.type", f.Kind), attribute.String("exception.message", f.Error)}
}

func failureOf(event journal.Event) *Failure {
	var f Failure
	if decode(event, &f) != nil || f.Error == "" {
		return nil
	}
	return &f
}

// decisionOf tells who asked for something, and why.
func decisionOf(event journal.Event) []attribute.KeyValue {
	var c journal.Command
	if decode(event, &c) != nil {
		return nil
	}
	var out []attribute.KeyValue
	for _, pair := range [][2]string{{"verb", c.Verb}, {"by", c.By}, {"as", c.As}, {"reason", c.Reason}} {
		if pair[1] != "" {
			out = append(out, attribute.String("muster.command."+pair[0], pair[1]))
		}
	}
	return out
}

func attempts(event journal.Event) attribute.KeyValue {
	return attribute.Int("muster.attempts", max(1, event.Attempt))
}
