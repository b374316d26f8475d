package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// CopySnapshots copies snapshots that capture-volumes has kept to another region, account or cluster. Its
// items are the names of the volumes' folders.
type CopySnapshots struct {
	// Targets says where the snapshots of each storage go, in its provider's words:
	// {ebs: {region: eu-west-1}}.
	Targets map[string]map[string]string `yaml:"targets"`
}

// copiedSnapshot is what copy-snapshots leaves for each volume.
type copiedSnapshot struct {
	Volume   string             `json:"volume"` // its folder: volumes/<name>
	Storage  string             `json:"storage"`
	Snapshot providers.Snapshot `json:"snapshot"`
}

// Items are the volumes whose snapshots were kept at a storage that has a target.
func (s *CopySnapshots) Items(_ context.Context, run *orchestrator.Run) ([]string, error) {
	layers, err := s.layers(run)
	return slices.Sorted(maps.Keys(layers)), err
}

func (s *CopySnapshots) layers(run *orchestrator.Run) (map[string]repository.VolumeLayer, error) {
	out := map[string]repository.VolumeLayer{}
	for item, receipt := range run.ItemReceipts("capture-volumes") {
		var r volumesReceipt
		if err := json.Unmarshal(receipt, &r); err != nil {
			return nil, fault.New("read receipt", fault.Corrupt, item, err)
		}
		for _, v := range r.Volumes {
			if _, wanted := s.Targets[v.Layer.Storage]; wanted && len(v.Layer.Snapshot) > 0 {
				out[itemOf(v.Layer)] = v.Layer
			}
		}
	}
	return out, nil
}

// Check looks whether the providers can copy.
func (s *CopySnapshots) Check(ctx context.Context, run *orchestrator.Run) error {
	if len(s.Targets) == 0 {
		return fault.Newf("check targets", fault.Invalid, run.Step, "say where to: targets: {<storage>: {…}}")
	}
	names := slices.Sorted(maps.Keys(s.Targets))
	if err := knownStorages(run, names); err != nil {
		return err
	}
	backends, err := backendsOf(ctx, run, names)
	if err != nil {
		return err
	}
	for _, backend := range backends {
		if err := usable(ctx, backend, providers.CapCopy); err != nil {
			return err
		}
	}
	return nil
}

// Do copies one snapshot.
func (s *CopySnapshots) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	layers, err := s.layers(run)
	if err != nil {
		return nil, err
	}
	layer, found := layers[run.Item]
	if !found {
		return nil, fault.Newf("copy snapshot", fault.NotFound, run.Item, "capture-volumes kept no snapshot of it")
	}
	var snapshot providers.Snapshot
	if err := json.Unmarshal(layer.Snapshot, &snapshot); err != nil {
		return nil, fault.New("read snapshot", fault.Corrupt, layer.ID, err)
	}
	provider, _, err := run.Storage(ctx, layer.Storage)
	if err != nil {
		return nil, err
	}
	reporting := providers.WithProgress(ctx, func(p providers.Progress) { run.Progress.Status(p.Text) })
	copied, err := provider.CopySnapshot(reporting, providers.CopyRequest{
		Token: tokenOf(run, snapshot.ID), Snapshot: snapshot.Handle, Target: s.Targets[layer.Storage], Tags: tagsOf(run),
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(copiedSnapshot{Volume: layer.Path, Storage: layer.Storage, Snapshot: copied})
}

// Verify asks for the copy.
func (s *CopySnapshots) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	copied, provider, err := s.read(ctx, run, receipt)
	if err != nil {
		return err
	}
	found, err := provider.SnapshotOf(ctx, copied.Snapshot.Handle)
	if err == nil && found.Size != copied.Snapshot.Size {
		return fault.Newf("verify copy", fault.Corrupt, found.ID, "it has %d bytes, not %d", found.Size, copied.Snapshot.Size)
	}
	return err
}

// Undo deletes the copy.
func (s *CopySnapshots) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	copied, provider, err := s.read(ctx, run, receipt)
	if err != nil {
		return err
	}
	return provider.DeleteSnapshot(ctx, copied.Snapshot.Handle)
}

func (s *CopySnapshots) read(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) (copiedSnapshot, providers.Provider, error) {
	var copied copiedSnapshot
	if err := json.Unmarshal(receipt, &copied); err != nil {
		return copied, nil, fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	provider, _, err := run.Storage(ctx, copied.Storage)
	return copied, provider, err
}

// Abandon deletes what an attempt copied whose receipt was never written.
func (s *CopySnapshots) Abandon(ctx context.Context, run *orchestrator.Run) error {
	backends, err := backendsOf(ctx, run, slices.Sorted(maps.Keys(s.Targets)))
	if err != nil {
		return err
	}
	return abandonSnapshots(ctx, run, backends)
}

// Left implements orchestrator.Leaver.
func (s *CopySnapshots) Left(receipt orchestrator.Receipt) string {
	var copied copiedSnapshot
	_ = json.Unmarshal(receipt, &copied) // an unreadable receipt names nothing
	where := copied.Storage
	if copied.Snapshot.Region != "" {
		where += " in " + copied.Snapshot.Region
	}
	return fmt.Sprintf("snapshot %s at %s; delete it with the backend's own tools", copied.Snapshot.ID, where)
}

// Summarize counts the copy.
func (s *CopySnapshots) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var copied copiedSnapshot
	err := json.Unmarshal(receipt, &copied)
	return orchestrator.Summary{
		Layer: "copies", Unit: "snapshots", Expected: 1, Done: 1, Bytes: copied.Snapshot.Size, Text: strings.TrimSpace("to " + copied.Snapshot.Region),
	}, err
}
