package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// ReplayNamespaces creates the API objects of a recovery point in a different cluster that already
// runs.
type ReplayNamespaces struct {
	cluster.Selection `yaml:",inline"`
	// As is who replays: a tenant's service account, into the namespaces that Include names, which are there.
	// Then the default of ClusterResources is none.
	As *cluster.Tenant `yaml:"as,omitempty"`
	// OnConflict is what becomes of objects that stand there with other content: keep (the default; they
	// count as lost), skip, update, replace or recreate.
	OnConflict cluster.Conflict `yaml:"onConflict,omitempty"`
	// Policies say more about some kinds; the first that fits an object holds.
	Policies []cluster.Policy `yaml:"policies,omitempty"`
	// Transform changes what is created.
	Transform []cluster.Transformation `yaml:"transform,omitempty"`
	// LeaveTo are GitOps tools that make again what they manage: argocd, flux.
	LeaveTo []string `yaml:"leaveTo,omitempty"`
	// Pause names controllers that would race with the replay, "<namespace>/<resource>.<group>/<name>";
	// they are set back at the end, in this order.
	Pause []string `yaml:"pause,omitempty"`
	// EtcdSnapshot replays what an etcd snapshot held at a revision, and not what was captured.
	EtcdSnapshot *EtcdSource `yaml:"etcdSnapshot,omitempty"`
	// Wait bounds how long nothing may come back while the cluster does not take what is left; 0 means
	// two minutes.
	Wait plans.Duration `yaml:"wait,omitempty"`
}

const replayWait = 2 * time.Minute

// replayReceipt is what replay-namespaces leaves: the rules that it went by are verify-cluster's, too.
type replayReceipt struct {
	cluster.Replayed
	cluster.Selection
	Policies   []cluster.Policy         `json:"policies,omitempty"`
	OnConflict cluster.Conflict         `json:"onConflict,omitempty"`
	Transform  []cluster.Transformation `json:"transform,omitempty"`
	// EtcdSnapshot is where the objects came from when it was no capture.
	EtcdSnapshot *EtcdSource `json:"etcdSnapshot,omitempty"`
	// Outcomes is outcomes.jsonl: see docs/formats/outcomes.md.
	Outcomes repository.Object `json:"outcomes"`
}

// Validate checks what can be checked without a cluster.
func (s *ReplayNamespaces) Validate() error {
	if s.EtcdSnapshot != nil {
		if err := s.EtcdSnapshot.check(); err != nil {
			return err
		}
	}
	if s.As != nil {
		if err := errors.Join(s.As.Validate(), s.selection().NamesNamespaces()); err != nil {
			return err
		}
	}
	return s.config().Validate()
}

func (s *ReplayNamespaces) config() cluster.ReplayConfig {
	return cluster.ReplayConfig{
		Selection: s.selection(), OnConflict: s.OnConflict, Policies: s.Policies, Transform: s.Transform,
		LeaveTo: s.LeaveTo, Pause: s.Pause, Wait: cmp.Or(time.Duration(s.Wait), replayWait),
	}
}

// selection narrows a replay of some namespaces to the cluster's own objects that they need: with a
// policy that replaces, all others would go back in time, too.
func (s *ReplayNamespaces) selection() cluster.Selection {
	selection := s.Selection
	if s.As != nil {
		selection.ClusterResources = cmp.Or(selection.ClusterResources, cluster.NoClusterResources)
	}
	if len(selection.Include) > 0 && selection.ClusterResources == "" {
		selection.ClusterResources = cluster.NeededClusterResources
	}
	return selection
}

// Check looks whether the recovery point holds objects and the cluster answers.
func (s *ReplayNamespaces) Check(ctx context.Context, run *orchestrator.Run) error {
	if err := s.checkSource(ctx, run); err != nil {
		return err
	}
	client, err := clientAs(ctx, run, s.As)
	if err != nil {
		return err
	}
	defer client.Close()
	if s.As == nil || s.EtcdSnapshot != nil {
		return client.Ready(ctx)
	}
	return s.requirePermissions(ctx, run, client)
}

// requirePermissions refuses a plan that needs more than its tenant may.
func (s *ReplayNamespaces) requirePermissions(ctx context.Context, run *orchestrator.Run, client *cluster.Client) error {
	recorded, err := cluster.ReadPoint(ctx, run.Repository, run.Point)
	if err != nil {
		return err
	}
	graph, err := recorded.Graph(ctx, s.selection())
	if err != nil {
		return err
	}
	return client.Require(ctx, "ServiceAccount "+s.As.ServiceAccount, graph.Permissions(s.verbs()...))
}

// verbs are what a replay does to an object, as the plan has it.
func (s *ReplayNamespaces) verbs() []string {
	verbs := []string{"create", "get", "list"}
	for _, policy := range append(s.Policies, cluster.Policy{OnConflict: s.OnConflict}) {
		switch policy.OnConflict {
		case cluster.UpdateExisting:
			verbs = append(verbs, "patch")
		case cluster.ReplaceExisting:
			verbs = append(verbs, "update")
		case cluster.RecreateExisting:
			verbs = append(verbs, "update", "delete")
		}
		if policy.Prune {
			verbs = append(verbs, "delete")
		}
	}
	slices.Sort(verbs)
	return slices.Compact(verbs)
}

// Do can be repeated: what an earlier try created is found by its name.
func (s *ReplayNamespaces) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	var replayed cluster.Replayed
	err := s.with(ctx, run, func(config cluster.ReplayConfig) (err error) {
		config.Report = func(note cluster.Note) {
			run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Severity(note.Weight), Layer: "namespaces", Subject: note.Subject, Text: note.Text})
		}
		replayed, err = cluster.Replay(ctx, config)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, passed := range replayed.Exceptions {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "namespaces",
			Subject: fmt.Sprintf("%d objects", passed.Count), Text: "passed over: " + passed.Reason})
	}
	receipt := replayReceipt{Replayed: replayed, Selection: s.selection(), Policies: s.Policies, OnConflict: s.OnConflict, Transform: s.Transform, EtcdSnapshot: s.EtcdSnapshot}
	if receipt.Outcomes, err = putOutcomes(ctx, run.Repository, replayed.Outcomes); err != nil {
		return nil, err
	}
	return json.Marshal(receipt)
}

func (s *ReplayNamespaces) checkSource(ctx context.Context, run *orchestrator.Run) error {
	if s.EtcdSnapshot == nil {
		_, err := cluster.ReadPoint(ctx, run.Repository, run.Point)
		return err
	}
	return s.EtcdSnapshot.exists(ctx, run)
}

// with lets work replay, or preview, with the objects and the cluster that the step names.
func (s *ReplayNamespaces) with(ctx context.Context, run *orchestrator.Run, work func(cluster.ReplayConfig) error) error {
	config := s.config()
	config.Progress = run.Progress
	client, err := clientAs(ctx, run, s.As)
	if err != nil {
		return err
	}
	defer client.Close()
	config.Client = client
	recorded, done, err := recordedIn(ctx, run, s.EtcdSnapshot, client)
	if err != nil {
		return err
	}
	defer done()
	config.Recorded = recorded
	return work(config)
}

// recordedIn opens the objects of an etcd snapshot, or, when there is none, of the recovery point's capture.
func recordedIn(ctx context.Context, run *orchestrator.Run, source *EtcdSource, client *cluster.Client) (recorded cluster.Recorded, done func(), err error) {
	if source != nil {
		return source.recorded(ctx, run, client)
	}
	recorded, err = cluster.ReadPoint(ctx, run.Repository, run.Point)
	return recorded, func() {}, err
}

// Preview tells what would be created, changed and deleted: see cluster.Change.
func (s *ReplayNamespaces) Preview(ctx context.Context, run *orchestrator.Run, tell func(orchestrator.Change) error) error {
	return s.with(ctx, run, func(config cluster.ReplayConfig) error {
		return cluster.Preview(ctx, config, func(c cluster.Change) error {
			return tell(orchestrator.Change{Subject: c.Key.String(), Action: c.Action, Diff: c.Diff})
		})
	})
}

// putOutcomes keeps what became of each object: a hundred thousand lines are no receipt.
func putOutcomes(ctx context.Context, to *repository.Repository, outcomes []cluster.ObjectOutcome) (repository.Object, error) {
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(cluster.WriteOutcomes(writer, outcomes)) }()
	defer reader.Close() // ends the writer when the repository gave up
	object, err := to.Put(ctx, cluster.OutcomesPath, reader)
	if err != nil {
		return object, err
	}
	return object, to.Flush(ctx)
}

// Verify reads the outcomes back.
func (s *ReplayNamespaces) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r replayReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Step, err)
	}
	outcomes, err := readOutcomes(ctx, run.Repository, r.Outcomes.ID)
	if err == nil && len(outcomes) != r.Objects+r.Pruned {
		err = fault.Newf("verify outcomes", fault.Corrupt, run.Step, "%d outcomes are kept, of %d objects", len(outcomes), r.Objects+r.Pruned)
	}
	return err
}

func readOutcomes(ctx context.Context, from *repository.Repository, id repository.ID) ([]cluster.ObjectOutcome, error) {
	opened, err := from.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return cluster.ReadOutcomes(opened)
}

// Undo does nothing: what was created may be in use by now, and what was there before is not told
// apart from it any more.
func (s *ReplayNamespaces) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the objects.
func (s *ReplayNamespaces) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r replayReceipt
	err := json.Unmarshal(receipt, &r)
	return orchestrator.Summary{
		Layer: "namespaces", Unit: "objects", Expected: int64(r.Objects - r.Passed), Done: int64(r.Objects - r.Passed - r.Lost),
		Text: fmt.Sprintf("%d created, %d there already, %d replaced, %d passed over, %d lost%s",
			r.Created, r.Present, r.Replaced+r.Updated+r.Recreated, r.Passed, r.Lost, besides(r.Replayed)),
	}, err
}

// besides tells what few replays do.
func besides(r cluster.Replayed) string {
	text := ""
	if r.Kept > 0 {
		text += fmt.Sprintf(", %d kept as they were", r.Kept)
	}
	if r.Pruned > 0 {
		text += fmt.Sprintf(", %d pruned", r.Pruned)
	}
	return text
}
