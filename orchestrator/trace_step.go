package orchestrator

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/musterdr/muster/state/journal"
)

// seeStep moves the spans of a step and its items.
func (t *runTrace) seeStep(step *stepTrace, event journal.Event) {
	switch event.Type {
	case StepItems:
		var items []string
		if decode(event, &items) == nil {
			step.total = len(items)
			t.beginStep(step, event)
		}
	case StepIntent:
		t.beginStep(step, event)
		t.beginItem(step, event)
	case StepReceipt:
		if s := step.of(event.Item); s != nil {
			s.note("receipt", event.Time)
		}
	case StepRetry:
		if s := step.of(event.Item); s != nil {
			s.note("retry", event.Time, append(exception(orUnknown(failureOf(event))), attribute.Int("muster.attempt", event.Attempt))...)
		}
	case StepVerified, StepFailed, StepInterrupted:
		t.endTask(step, event)
	}
}

func orUnknown(f *Failure) *Failure {
	if f == nil {
		return &Failure{Kind: "internal", Error: "unknown"}
	}
	return f
}

// of is the open span of an item, or of a step without items.
func (s *stepTrace) of(item string) *span {
	if item == "" {
		return s.open
	}
	return s.items[item]
}

func (t *runTrace) beginStep(step *stepTrace, event journal.Event) {
	if step.open != nil {
		return
	}
	step.last = event.Time
	step.open = &span{
		// A step's first item begins with the same event as the step.
		name: "step " + step.id, id: spanID(t.run.Header.ID, -event.Sequence), parent: t.session.id, start: event.Time,
		attributes: []attribute.KeyValue{attribute.String("muster.step.id", step.id), attribute.String("muster.step.uses", step.uses)},
	}
	if step.total > 0 {
		step.open.attributes = append(step.open.attributes, attribute.Int("muster.step.items", step.total))
	}
}

func (t *runTrace) beginItem(step *stepTrace, event journal.Event) {
	if event.Item == "" || step.items[event.Item] != nil { // another attempt
		return
	}
	delete(step.ended, event.Item)
	step.items[event.Item] = &span{
		name: "item " + step.id + "/" + event.Item, id: spanID(t.run.Header.ID, event.Sequence), parent: step.open.id, start: event.Time,
		attributes: []attribute.KeyValue{
			attribute.String("muster.step.id", step.id), attribute.String("muster.step.uses", step.uses), attribute.String("muster.item", event.Item),
		},
	}
}

// endTask ends an item, or a step that has none.
func (t *runTrace) endTask(step *stepTrace, event journal.Event) {
	s := step.of(event.Item)
	if s == nil {
		return
	}
	s.attributes = append(s.attributes, attempts(event), attribute.String("muster.task.state", event.Type[len("step."):]))
	if event.Type == StepVerified {
		var amount Amount
		if decode(event, &amount) == nil {
			s.attributes = append(s.attributes, attribute.Int64("muster.bytes", amount.Bytes), attribute.Int64("muster.items", amount.Items))
		}
	}
	var failure *Failure
	if event.Type == StepFailed {
		failure = orUnknown(failureOf(event))
	}
	if event.Item != "" {
		step.ended[event.Item] = event.Type == StepVerified
		t.endItem(step, event.Item, event.Time, failure)
		if len(step.items) > 0 || len(step.ended) < step.total {
			return // the step goes on
		}
	}
	step.last = event.Time
	if event.Item == "" {
		step.open.failure = failure
	}
	t.endStep(step, event.Time)
}

// endItem ends an open item. What it ended with is the step's failure, too.
func (t *runTrace) endItem(step *stepTrace, item string, at time.Time, failure *Failure) {
	s := step.items[item]
	delete(step.items, item)
	s.failure = failure
	if failure != nil && step.open.failure == nil {
		step.open.failure = &Failure{Kind: failure.Kind, Error: item + ": " + failure.Error}
	}
	step.last = at
	t.tell(s, at)
}

// endStep ends a step. One that was cut off ended with its last item.
func (t *runTrace) endStep(step *stepTrace, at time.Time) {
	if step.total > 0 && len(step.ended) > 0 {
		at = step.last
	}
	t.tell(step.open, at)
	step.open = nil
}

// seeUndone makes the span of what was taken back: it began when the one before had ended.
func (t *runTrace) seeUndone(step *stepTrace, event journal.Event) {
	if t.undo == nil {
		return
	}
	name := "undo " + step.id
	attributes := []attribute.KeyValue{attribute.String("muster.step.id", step.id), attribute.String("muster.step.uses", step.uses)}
	if event.Item != "" {
		name += "/" + event.Item
		attributes = append(attributes, attribute.String("muster.item", event.Item))
	}
	s := &span{name: name, id: spanID(t.run.Header.ID, event.Sequence), parent: t.undo.id, start: t.undoFrom, attributes: attributes}
	if event.Type == StepUndoFailed {
		s.failure = orUnknown(failureOf(event))
	}
	t.undoFrom = event.Time
	t.tell(s, event.Time)
}
