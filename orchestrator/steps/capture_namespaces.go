package steps

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// CaptureNamespaces stores every API object at one exact revision: that of the etcd snapshot when
// the plan takes one, else the newest.
type CaptureNamespaces struct {
	cluster.Selection `yaml:",inline"`
	// As is who captures: a tenant's service account, which sees the namespaces that Include names. Then
	// the default of ClusterResources is none.
	As *cluster.Tenant `yaml:"as,omitempty"`
}

// Validate implements plans.Validator.
func (s *CaptureNamespaces) Validate() error {
	if err := s.Selection.Validate(); err != nil || s.As == nil {
		return err
	}
	if err := s.As.Validate(); err != nil {
		return err
	}
	return s.selection().NamesNamespaces()
}

// selection is the plan's, with the defaults of who captures.
func (s *CaptureNamespaces) selection() cluster.Selection {
	selection := s.Selection
	if s.As != nil {
		selection.ClusterResources = cmp.Or(selection.ClusterResources, cluster.NoClusterResources)
	}
	return selection
}

// namespacesReceipt is what capture-namespaces leaves.
type namespacesReceipt struct {
	Layer repository.NamespacesLayer `json:"layer"`
	Trees []placedTree               `json:"trees"`
	Index repository.Object          `json:"index"` // objects.jsonl
}

type placedTree struct {
	Path string          `json:"path"`
	Tree repository.Tree `json:"tree"`
}

// Check lists what the API server serves, and whether a tenant may list what is selected of it.
func (s *CaptureNamespaces) Check(ctx context.Context, run *orchestrator.Run) error {
	client, err := clientAs(ctx, run, s.As)
	if err != nil {
		return err
	}
	defer client.Close()
	if s.As == nil || s.As.SkipDenied {
		_, _, err = client.Discover(ctx)
		return err
	}
	wanted, err := cluster.SelectedPermissions(ctx, client, s.selection(), "list")
	if err != nil {
		return err
	}
	return client.Require(ctx, "ServiceAccount "+s.As.ServiceAccount, wanted)
}

// Do lists and stores. Repeating it stores the same content under the same IDs.
func (s *CaptureNamespaces) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	var snapshot struct {
		Layer repository.EtcdLayer `json:"layer"`
	}
	if _, err := run.ReceiptOf("snapshot-etcd", &snapshot); err != nil {
		return nil, fault.New("read receipt", fault.Corrupt, "snapshot-etcd", err)
	}
	client, err := clientAs(ctx, run, s.As)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	captured, err := cluster.Capture(ctx, cluster.CaptureConfig{
		Client: client, Store: run.Repository, Revision: snapshot.Layer.Revision,
		Selection: s.selection(), SkipDenied: s.As != nil && s.As.SkipDenied, Progress: run.Progress, Now: run.Now,
	})
	if err != nil {
		return nil, err
	}
	if snapshot.Layer.Revision > 0 { // the objects are those of the snapshot's instant, whenever they are listed
		captured.Layer.Taken = snapshot.Layer.Taken
	}
	if err := run.Repository.Flush(ctx); err != nil {
		return nil, err
	}
	for _, left := range captured.Layer.Left {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "namespaces", Subject: left.Subject, Text: "not captured: " + left.Reason})
	}
	return json.Marshal(namespacesReceipt{
		Layer: captured.Layer, Index: captured.Index,
		Trees: []placedTree{{"cluster", captured.Cluster}, {"namespaces", captured.Namespaces}},
	})
}

// Verify reads the index back and compares its digest.
func (s *CaptureNamespaces) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r namespacesReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Step, err)
	}
	entries, err := readIndex(ctx, run, r.Index.ID)
	if err != nil {
		return err
	}
	if digest := cluster.IndexDigest(entries); digest != r.Layer.Digest || len(entries) != r.Layer.Objects {
		return fault.Newf("verify index", fault.Corrupt, cluster.IndexPath, "%d objects with digest %s stand there, %d with %s were written", len(entries), digest, r.Layer.Objects, r.Layer.Digest)
	}
	return nil
}

func readIndex(ctx context.Context, run *orchestrator.Run, id repository.ID) ([]cluster.Entry, error) {
	opened, err := run.Repository.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return cluster.ReadIndex(opened)
}

// Undo does nothing: content that no point refers to is garbage for maintenance.
func (s *CaptureNamespaces) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the objects.
func (s *CaptureNamespaces) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r namespacesReceipt
	err := json.Unmarshal(receipt, &r)
	n := int64(r.Layer.Objects)
	return orchestrator.Summary{Layer: "namespaces", Unit: "objects", Expected: n, Done: n, Digest: r.Layer.Digest}, err
}
