package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/state/repository"
)

// Config is what a Runner needs from its surroundings.
type Config struct {
	Store       *journal.Store
	Definitions []Definition
	// Repository opens the repository a document describes; the runner closes it.
	Repository func(context.Context, *plans.Repository) (*repository.Repository, error)
	// Providers reaches storage backends; nil where plans need none.
	Providers ProviderSource
	Observer  Observer
	Log       *slog.Logger
	Now       func() time.Time
}

// Runner starts, resumes and cancels runs. It is the only owner of the lifecycle.
type Runner struct {
	Config
	definitions map[string]Definition
}

// NewRunner returns a runner for the given steps.
func NewRunner(config Config) *Runner {
	definitions := make(map[string]Definition, len(config.Definitions))
	for _, definition := range config.Definitions {
		definitions[definition.ID] = definition
	}
	return &Runner{Config: config, definitions: definitions}
}

// Request asks for one execution of a plan.
type Request struct {
	ID   string // the run's, unique in the store
	Plan *plans.Checked
	// Point is the recovery point to recover from: an ID, a unique prefix or "latest". Captures
	// leave it empty.
	Point string
	// Lost is when the cluster was lost: RPO is counted to it. Zero means now.
	Lost time.Time
}

// frozenVersion is the newest format of frozen runs this program writes and reads.
const frozenVersion = 1

// frozen is everything a resume needs, as the journal's header keeps it.
type frozen struct {
	Version int             `json:"version"`
	Plan    json.RawMessage `json:"plan"` // as plans.Freeze wrote it
	recovery
}

// recovery says what a run that recovers goes back to.
type recovery struct {
	Point   string    `json:"point,omitempty"`
	Instant time.Time `json:"instant,omitzero"` // the moment the point stands for
	Lost    time.Time `json:"lost,omitzero"`    // the moment of loss
}

// DryRun calls every step's Check and nothing else. All problems are returned together.
func (r *Runner) DryRun(ctx context.Context, request Request) error {
	x, err := r.prepare(ctx, request)
	if err != nil {
		return err
	}
	return errors.Join(x.preflight(ctx), x.close(ctx))
}

// Preview checks a plan, and then tells what those of its steps would change that can tell it. Nothing is
// done.
func (r *Runner) Preview(ctx context.Context, request Request, tell func(Change) error) error {
	x, err := r.prepare(ctx, request)
	if err != nil {
		return err
	}
	err = x.preflight(ctx)
	if err == nil {
		err = x.preview(ctx, tell)
	}
	return errors.Join(err, x.close(ctx))
}

// Start checks a plan, freezes it in the journal and runs it to its end. The report is there
// whenever the run exists, also beside an error.
//
// When ctx ends, running tasks are interrupted and the run can be resumed.
func (r *Runner) Start(ctx context.Context, request Request) (*Report, error) {
	x, err := r.prepare(ctx, request)
	if err != nil {
		return nil, err
	}
	report, err := x.start(ctx)
	x.archive(ctx)
	return report, errors.Join(err, x.close(context.WithoutCancel(ctx)))
}

// Resume goes on with a run that was interrupted, whose process died, or that failed: what was
// verified stays, everything else is done again. It returns fault.Busy while another process lives
// that owns the run, and fault.Exists when there is nothing left to do.
func (r *Runner) Resume(ctx context.Context, id string) (*Report, error) {
	header, err := r.Store.Header(ctx, id)
	if err != nil {
		return nil, err
	}
	x, err := r.thaw(header)
	if err != nil {
		return nil, err
	}
	report, err := x.resume(ctx)
	x.archive(ctx)
	return report, errors.Join(err, x.close(context.WithoutCancel(ctx)))
}

// archive packs the journal of a run that has ended for good. A run that is not packed is whole all
// the same, and Tidy packs it later.
func (x *execution) archive(ctx context.Context) {
	if !isFinal(x.ledger.run.state()) {
		return
	}
	if err := x.Store.Archive(context.WithoutCancel(ctx), x.id); err != nil {
		x.Log.Warn("the journal of the run is not packed yet", "run", x.id, "error", err)
	}
}

// isFinal reports a state after which a run never goes on.
func isFinal(state string) bool {
	return state == RunStateCompleted || state == RunStateCancelled || state == RunStateUndone
}

// Report tells how a run stands, from its journal alone.
func (r *Runner) Report(ctx context.Context, id string) (*Report, error) {
	_, report, err := r.Graph(ctx, id)
	return report, err
}

// Graph is Report with the graph of the run's frozen plan.
func (r *Runner) Graph(ctx context.Context, id string) (*plans.Graph, *Report, error) {
	header, err := r.Store.Header(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	x, err := r.thaw(header)
	if err != nil {
		return nil, nil, err
	}
	events, err := r.Store.Events(ctx, header.ID, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := x.ledger.replay(events); err != nil {
		return nil, nil, err
	}
	return x.plan.Graph, x.report(), nil
}

// prepare makes an execution of a new run, with its repository open and its point resolved.
func (r *Runner) prepare(ctx context.Context, request Request) (*execution, error) {
	plan, digest, err := plans.Freeze(request.Plan)
	if err != nil {
		return nil, err
	}
	if request.Point != "" && request.Lost.IsZero() {
		request.Lost = r.Now().UTC()
	}
	x := r.newExecution(request.ID, request.Plan, recovery{Point: request.Point, Lost: request.Lost})
	if err := x.open(ctx); err != nil {
		return nil, err
	}
	x.header = journal.Header{
		ID: request.ID, Plan: request.Plan.Plan.Metadata.Name, PlanDigest: digest,
		Purpose: string(request.Plan.Plan.Spec.Purpose), Created: r.Now().UTC(),
	}
	if request.Plan.Cluster != nil {
		x.header.Cluster = request.Plan.Cluster.Metadata.Name
	}
	x.header.Frozen, err = json.Marshal(frozen{Version: frozenVersion, Plan: plan, recovery: x.recovery})
	if err != nil {
		return nil, errors.Join(fault.New("freeze run", fault.Internal, request.ID, err), x.close(ctx))
	}
	return x, nil
}

// thaw makes an execution of a run that exists; its repository is not opened yet.
func (r *Runner) thaw(header journal.Header) (*execution, error) {
	var content frozen
	if err := json.Unmarshal(header.Frozen, &content); err != nil {
		return nil, fault.New("read frozen run", fault.Corrupt, header.ID, err)
	}
	if content.Version > frozenVersion {
		return nil, fault.Newf("read frozen run", fault.Unsupported, header.ID,
			"it was written in format %d and this muster reads up to %d: use a newer muster", content.Version, frozenVersion)
	}
	plan, err := plans.Thaw(content.Plan)
	if err != nil {
		return nil, err
	}
	x := r.newExecution(header.ID, plan, content.recovery)
	x.header = header
	return x, nil
}
