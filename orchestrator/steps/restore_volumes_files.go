package steps

import (
	"context"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// unpack fills a new volume with the files of the archive in the repository.
func (r *volumeRestore) unpack(ctx context.Context) (restoredVolume, error) {
	if r.layer.Files == nil {
		return restoredVolume{}, fault.Newf("restore volume", fault.NotFound, r.layer.ID, "the recovery point holds its snapshot alone, and storage %s does not have it", r.storage)
	}
	archive, err := archiveOf(ctx, r.run, r.layer)
	if err != nil {
		return restoredVolume{}, err
	}
	made, err := r.provider.Create(r.reporting(ctx), r.request())
	if err != nil {
		return restoredVolume{}, err
	}
	r.run.Progress.Status("files of " + r.layer.ID)
	stats, err := volume.RestoreFiles(ctx, r.run.Repository, archive, r.provider, made.Handle, tokenOf(r.run, "fill", r.storage))
	if err != nil {
		return restoredVolume{}, err
	}
	r.run.Progress.Add(stats.Bytes, 0)
	for _, left := range stats.Left {
		r.run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Changed, Layer: "volumes", Subject: r.layer.ID + ": " + left.Subject, Text: left.Reason})
	}
	return restoredVolume{Storage: r.storage, Volume: made, From: FromRepository, Bytes: stats.Bytes}, nil
}

// archiveOf finds the archive of a volume in the run's recovery point.
func archiveOf(ctx context.Context, run *orchestrator.Run, layer repository.VolumeLayer) (repository.Archive, error) {
	point, err := run.Repository.Point(ctx, run.Point)
	if err != nil {
		return repository.Archive{}, err
	}
	return run.Repository.Archive(ctx, point, layer)
}

// verifyFiles compares a restored volume's files with the archive.
func verifyFiles(ctx context.Context, run *orchestrator.Run, layer repository.VolumeLayer, provider providers.Provider, restored providers.Volume) error {
	if layer.Files == nil {
		return nil // it is a clone: there is nothing else to compare it with
	}
	archive, err := archiveOf(ctx, run, layer)
	if err != nil {
		return err
	}
	run.Progress.Status("comparing the files of " + layer.ID)
	return volume.CompareFiles(ctx, run.Repository, archive, provider, restored.Handle, tokenOf(run, "compare"))
}
