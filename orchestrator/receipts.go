package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// inlineReceipt is the size in bytes up to which a receipt stands in the journal itself. A larger one is
// kept in the repository, so that etcd stays small.
const inlineReceipt = 64 << 10

// keptReceipt stands in the journal for a receipt that the repository keeps.
type keptReceipt struct {
	Kept    *repository.Object `json:"muster.dev/kept"`
	Summary *Summary           `json:"summary,omitempty"`
}

// journaled is what the journal gets of a receipt. What it refers to is durable on return.
func (x *execution) journaled(ctx context.Context, t *task, step Step, receipt Receipt) (any, error) {
	if len(receipt) <= inlineReceipt || x.repository == nil {
		return receipt, nil
	}
	object, err := x.repository.Put(ctx, "receipts/"+x.id+"/"+taskName(t), bytes.NewReader(receipt))
	if err != nil {
		return nil, err
	}
	if err := x.repository.Flush(ctx); err != nil {
		return nil, err
	}
	kept := keptReceipt{Kept: &object}
	if summarizer, ok := step.(Summarizer); ok {
		if summary, err := summarizer.Summarize(receipt); err == nil {
			kept.Summary = &summary
		}
	}
	return kept, nil
}

func taskName(t *task) string {
	if t.item == "" {
		return t.step
	}
	return t.step + "/" + t.item
}

// loadReceipts fetches the receipts that the repository keeps.
func (x *execution) loadReceipts(ctx context.Context) error {
	for _, t := range x.ledger.received() {
		kept, ok := isKept(t.receipt)
		if !ok {
			continue
		}
		if x.repository == nil {
			return fault.Newf("read receipt", fault.NotFound, taskName(t), "the repository keeps it, and the plan names none")
		}
		receipt, err := x.fetch(ctx, *kept.Kept)
		if err != nil {
			return err
		}
		x.ledger.hold(t, receipt)
	}
	return nil
}

func (x *execution) fetch(ctx context.Context, object repository.Object) (Receipt, error) {
	opened, err := x.repository.Open(ctx, object.ID)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return io.ReadAll(opened)
}

func isKept(receipt Receipt) (keptReceipt, bool) {
	var kept keptReceipt
	if !bytes.Contains(receipt[:min(len(receipt), 40)], []byte(`muster.dev/kept`)) {
		return kept, false
	}
	err := json.Unmarshal(receipt, &kept)
	return kept, err == nil && kept.Kept != nil
}

// sealed is the recovery point that the run made, nil when it made none.
func (x *execution) sealed() *Sealed {
	for _, step := range x.ledger.steps {
		definition, known := x.definitions[step.spec.Uses]
		if !known {
			continue
		}
		sealer, seals := definition.New().(Sealer)
		receipt := x.ledger.receipt(step.spec.ID, "")
		if !seals || receipt == nil {
			continue
		}
		if point, err := sealer.Sealed(receipt); err == nil { // a receipt that can't be read names none
			return &point
		}
	}
	return nil
}
