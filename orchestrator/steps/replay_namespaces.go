package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// ReplayNamespaces creates the API objects of a recovery point in a different cluster that already
// runs.
type ReplayNamespaces struct {
	// Include and Exclude are patterns of namespaces: "team-*"; no Include means all.
	Include []string `yaml:"include,omitempty"`
	Exclude []string `yaml:"exclude,omitempty"`
	// ExcludeKinds are resources to leave out: "resource.group", with patterns.
	ExcludeKinds []string `yaml:"excludeKinds,omitempty"`
	// OnConflict is keep (the default) or replace: what becomes of objects that stand there already.
	OnConflict cluster.Conflict `yaml:"onConflict,omitempty"`
	// Wait bounds the tries of what the cluster does not take yet; 0 means two minutes.
	Wait plans.Duration `yaml:"wait,omitempty"`
}

const replayWait = 2 * time.Minute

// replayReceipt is what replay-namespaces leaves: the filter is verify-cluster's, too.
type replayReceipt struct {
	cluster.Replayed
	Include      []string `json:"include,omitempty"`
	Exclude      []string `json:"exclude,omitempty"`
	ExcludeKinds []string `json:"excludeKinds,omitempty"`
}

// Check looks whether the recovery point holds objects and the cluster answers.
func (s *ReplayNamespaces) Check(ctx context.Context, run *orchestrator.Run) error {
	if s.OnConflict != "" && s.OnConflict != cluster.KeepExisting && s.OnConflict != cluster.ReplaceExisting {
		return fault.Newf("check onConflict", fault.Invalid, string(s.OnConflict), "want keep or replace")
	}
	if _, err := cluster.ReadPoint(ctx, run.Repository, run.Point); err != nil {
		return err
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ready(ctx)
}

// Do can be repeated: what an earlier try created is found by its name.
func (s *ReplayNamespaces) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	recorded, err := cluster.ReadPoint(ctx, run.Repository, run.Point)
	if err != nil {
		return nil, err
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	replayed, err := cluster.Replay(ctx, cluster.ReplayConfig{
		Client: client, Recorded: recorded, Include: s.Include, Exclude: s.Exclude, ExcludeKinds: s.ExcludeKinds,
		OnConflict: s.OnConflict, Wait: cmp.Or(time.Duration(s.Wait), replayWait), Progress: run.Progress,
		Report: func(note cluster.Note) {
			run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Severity(note.Weight), Layer: "namespaces", Subject: note.Subject, Text: note.Text})
		},
	})
	if err != nil {
		return nil, err
	}
	for _, passed := range replayed.Exceptions {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "namespaces",
			Subject: fmt.Sprintf("%d objects", passed.Count), Text: "not for another cluster: " + passed.Reason})
	}
	return json.Marshal(replayReceipt{Replayed: replayed, Include: s.Include, Exclude: s.Exclude, ExcludeKinds: s.ExcludeKinds})
}

// Verify is the step verify-cluster's work.
func (s *ReplayNamespaces) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
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
		Layer: "namespaces", Unit: "objects", Expected: int64(r.Objects - r.Passed), Done: int64(r.Created + r.Present + r.Replaced),
		Text: fmt.Sprintf("%d created, %d there already, %d replaced, %d not for another cluster, %d lost", r.Created, r.Present, r.Replaced, r.Passed, r.Lost),
	}, err
}
