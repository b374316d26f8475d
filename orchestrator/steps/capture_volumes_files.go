package steps

import (
	"context"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// storeFiles archives the files of a volume: of its snapshot, where there is one.
func (g *volumeGroup) storeFiles(ctx context.Context, m *groupMember, layer repository.VolumeLayer, before volumeHistory, progress volume.Progress) (repository.VolumeLayer, []repository.File, error) {
	base, err := before.filesBase(ctx, g.run, m.info)
	if err != nil {
		return layer, nil, err
	}
	capture := volume.FileCapture{
		Provider: m.provider, Volume: m.Volume.Handle, Token: tokenOf(g.run, "files", m.Storage, m.Volume.ID),
		Base: base, Repository: g.run.Repository, Progress: progress,
	}
	if m.snapshot != nil {
		capture.Snapshot, capture.Token = m.snapshot.Handle, tokenOf(g.run, "files", m.Storage, m.snapshot.ID)
	}
	stored, err := capture.Capture(ctx)
	if err != nil {
		return layer, nil, err
	}
	layer.Files, layer.Mark, layer.Left = stored.Archive.Contents(layer.Path), stored.Mark, stored.Stats.Left
	layer.ReadBytes = stored.Stats.Bytes - stored.Stats.ReusedBytes
	layer.NewBytes = layer.ReadBytes
	if stored.Incremental {
		layer.Base = before.point.ID
	}
	for _, left := range stored.Stats.Left {
		g.run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "volumes", Subject: layer.ID + ": " + left.Subject, Text: left.Reason})
	}
	return layer, stored.Archive.Tree(), nil
}

// filesBase is what an incremental capture can build on, nil when there is nothing.
func (h volumeHistory) filesBase(ctx context.Context, run *orchestrator.Run, info providers.Info) (*volume.FilesBase, error) {
	if h.layer.Files == nil || h.layer.Provider != info.Name {
		return nil, nil
	}
	archive, err := run.Repository.Archive(ctx, h.point, h.layer)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Unsupported) {
		return nil, nil
	}
	base := &volume.FilesBase{Archive: archive}
	if info.Can(providers.CapChanges) {
		base.Mark = h.layer.Mark
	}
	return base, err
}
