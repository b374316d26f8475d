package orchestrator

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/state/repository"
)

// Step is one resumable unit of work. A fresh value is made for every task (a step, or one item of
// a step that fans out) and its exported fields are filled from the plan's `with`.
//
// The runner calls Check before anything of the run has happened, and the others in the order Do,
// Verify. A process may die between any two instructions: Do is then called again, with prior set
// to the receipt of an earlier success when there was one, and nil otherwise. Do must therefore find
// what an earlier try made, by names that derive from run, step and item, and never make it twice.
// All methods must end soon after ctx does. Different tasks run concurrently.
type Step interface {
	// Check looks whether Do can work, and changes nothing. A dry run is Check alone.
	Check(ctx context.Context, run *Run) error
	// Do works. The receipt it returns is durable before anything that needs this step starts.
	Do(ctx context.Context, run *Run, prior Receipt) (Receipt, error)
	// Verify looks at the world, not at the receipt's word, and says whether Do's promise holds.
	Verify(ctx context.Context, run *Run, receipt Receipt) error
	// Undo removes from the world what the receipt names. What is gone already is no error. Where there
	// is no receipt, see Abandoner.
	Undo(ctx context.Context, run *Run, receipt Receipt) error
}

// Abandoner is implemented by steps whose Do can have made something before its receipt was there.
type Abandoner interface {
	// Abandon removes from the world what an attempt of this task may have made that failed, was cut
	// off or died before its receipt was durable. It finds that by the names that Do derives from run,
	// step and item. Undo calls it, once the attempt has ended, and again after a crash: what is not
	// there, or is not this run's, is no error and stays as it is.
	Abandon(ctx context.Context, run *Run) error
}

// FanOut is implemented by steps that work on several items: machines, namespaces, volumes.
type FanOut interface {
	// Items lists the items in the order they shall start. It is called once, after the steps that
	// this one needs have ended; the list is frozen in the journal. It changes nothing.
	Items(ctx context.Context, run *Run) ([]string, error)
}

// Accepter is implemented by steps that people decide on. Accept says what is wrong with a decision,
// before it is journaled: a role that may not decide, a value that was not asked for. It does no I/O.
type Accepter interface {
	Accept(decision journal.Command) error
}

// Leaver is implemented by steps that leave things in the world. Left tells, for a person, what a
// receipt stands for and how to remove it by hand. It does no I/O.
type Leaver interface {
	Left(receipt Receipt) string
}

// Previewer is implemented by steps that can tell beforehand what they would change.
type Previewer interface {
	// Preview is read-only. It comes after a Check that succeeded, and tells in a stable order.
	Preview(ctx context.Context, run *Run, tell func(Change) error) error
}

// Change is what a step would do to one object.
type Change struct {
	Subject string `json:"subject"`
	Action  string `json:"action"`         // create, replace, …: see the step's documentation
	Diff    string `json:"diff,omitempty"` // unified; never a secret
}

// Summarizer is implemented by steps that stand for a layer in the run's final table.
type Summarizer interface {
	// Summarize tells what one receipt stands for. It does no I/O.
	Summarize(receipt Receipt) (Summary, error)
}

// Summary is one task's share of a layer.
type Summary struct {
	Layer    string `json:"layer"` // etcd, machines, disks, namespaces, …
	Unit     string `json:"unit"`  // what is counted: objects, machines, members
	Expected int64  `json:"expected"`
	Done     int64  `json:"done"`
	Bytes    int64  `json:"bytes,omitempty"`
	Digest   string `json:"digest,omitempty"`
	Text     string `json:"text,omitempty"` // one short phrase: "revision 4711"
}

// Sealer is implemented by steps that make a recovery point.
type Sealer interface {
	// Sealed tells which one, from the step's receipt. It does no I/O.
	Sealed(receipt Receipt) (Sealed, error)
}

// Sealed is a recovery point that a run made.
type Sealed struct {
	Point   string    `json:"point"`
	Instant time.Time `json:"instant"` // the moment it stands for
}

// Receipt is what a step leaves behind, as JSON: enough to resume, verify or undo it in another
// process on another day. It never holds a secret.
type Receipt = json.RawMessage

// Definition makes a step known to plans under its ID.
type Definition struct {
	ID       string // kebab-case: "snapshot-etcd"
	Summary  string // one line for `muster plan steps`
	Purposes []plans.Purpose
	// Layer is what the step works on: two runs never work on the same layer of the same cluster. Empty
	// means that it may run beside anything.
	Layer string
	// Waits marks a step that only waits for something outside. It takes no place among the tasks that
	// may run at once, and a pause ends its waiting.
	Waits bool
	New   func() Step // a pointer to a struct whose yaml-tagged fields are the step's `with`
}

// Run is what one task of a run sees: its place in the run, the inventory, and where to write.
type Run struct {
	ID         string // the run's
	Plan       string // the plan's name
	PlanDigest string // of the frozen plan; empty in a dry run
	Step       string // the step's ID in the plan
	Item       string // empty unless the step fans out

	Cluster    *plans.Cluster         // the cluster that is captured, or replayed into; may be nil
	Machines   *plans.Machines        // the target machines of a rebuild; may be nil
	Repository *repository.Repository // open; may be nil in a dry run of a plan without one
	Point      string                 // the recovery point to recover from; empty in a capture

	Log      *slog.Logger
	Progress Progress
	Now      func() time.Time

	receipts  receiptSource
	providers ProviderSource
}

// Progress receives what a task has done so far. It is safe for concurrent use and never blocks.
type Progress interface {
	// Total announces the expected amount; it may be called again when the estimate changes.
	Total(bytes, items int64)
	// Add counts work done.
	Add(bytes, items int64)
	// Status replaces the one line of text that says what is going on.
	Status(text string)
	// Report adds a line to the run's report that stands there after the run has ended: something
	// that did not come back, was changed or needs a person, and why.
	Report(finding Finding)
}

// Finding is one line of a run's report.
type Finding struct {
	Severity Severity `json:"severity"`
	Layer    string   `json:"layer"`   // etcd, machines, namespaces, …
	Subject  string   `json:"subject"` // "Node worker-1"
	Text     string   `json:"text"`    // what happened and what to do
}

// Severity says what a finding means for the verdict.
type Severity string

// The severities. A run with a finding of severity Lost did not bring everything back.
const (
	Info    Severity = "info"
	Changed Severity = "changed" // came back, but not as it was: documented exceptions
	Lost    Severity = "lost"    // did not come back
)

// Decision waits until somebody has approved or rejected this step, and returns what was decided.
func (r *Run) Decision(ctx context.Context) (journal.Command, error) {
	for {
		decision, changed := r.receipts.decision(r.Step)
		if decision != nil {
			return *decision, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return journal.Command{}, context.Cause(ctx)
		}
	}
}

type receiptSource interface {
	decision(step string) (*journal.Command, <-chan struct{})
	// receipt returns the verified receipt of a task, nil when there is none.
	receipt(step, item string) Receipt
	// stepsUsing lists the IDs of the plan's steps of a kind, in the plan's order.
	stepsUsing(kind string) []string
	fansOut(step string) bool
	items(step string) []string
}

// ReceiptOf decodes the receipt of the first step of the given kind ("snapshot-etcd") into `into`.
// It reports whether there was one. Steps that fan out have one receipt an item: see ItemReceipts.
func (r *Run) ReceiptOf(kind string, into any) (bool, error) {
	for _, step := range r.receipts.stepsUsing(kind) {
		if receipt := r.receipts.receipt(step, ""); receipt != nil {
			return true, json.Unmarshal(receipt, into)
		}
	}
	return false, nil
}

// Ambiguous reports a kind of step whose receipt ReceiptOf cannot choose: the plan has several of the
// kind, or fans one out.
func (r *Run) Ambiguous(kind string) bool {
	using := r.receipts.stepsUsing(kind)
	return len(using) > 1 || len(using) == 1 && r.receipts.fansOut(using[0])
}

// ItemReceipts returns the receipts of all items of all steps of the given kind, by item.
func (r *Run) ItemReceipts(kind string) map[string]Receipt {
	out := map[string]Receipt{}
	for _, step := range r.receipts.stepsUsing(kind) {
		for _, item := range r.receipts.items(step) {
			if receipt := r.receipts.receipt(step, item); receipt != nil {
				out[item] = receipt
			}
		}
	}
	return out
}
