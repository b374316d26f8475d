package steps

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// volumesAtOnce is how many volumes of one group are moved at once; a storage's maxParallel bounds them
// further.
const volumesAtOnce = 4

// move stores the group's content, where the mode wants that, and describes each volume.
func (g *volumeGroup) move(ctx context.Context) ([]capturedVolume, error) {
	history, err := historyOf(ctx, g.run)
	if err != nil {
		return nil, err
	}
	progress := newSharedProgress(g.run.Progress)
	captured, files := make([]capturedVolume, len(g.members)), make([][]repository.File, len(g.members))
	group, moving := errgroup.WithContext(ctx)
	group.SetLimit(volumesAtOnce)
	for i, m := range g.members {
		group.Go(func() error {
			var err error
			captured[i].Layer, files[i], err = g.store(moving, m, history.of(m.Storage, m.Volume.ID), progress.of(m.folder()))
			if err != nil {
				return fault.New("capture volume", fault.KindOf(err), m.folder(), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, g.release(ctx))
	}
	g.releaseLive(ctx)
	if err := g.forget(ctx, captured, history); err != nil {
		return nil, err
	}
	for i, m := range g.members {
		captured[i].Layer.Consistency, captured[i].Layer.QuiescedDatabases = m.consistency, g.databases
		if captured[i], err = g.seal(ctx, captured[i].Layer, files[i]); err != nil {
			return nil, err
		}
	}
	return captured, nil
}

// releaseLive ends the stillness under volumes that were read live. When it lasted, what was read is as
// good as a snapshot.
func (g *volumeGroup) releaseLive(ctx context.Context) {
	if g.still == nil && len(g.held) == 0 {
		return
	}
	pods := g.still != nil
	lasted := g.release(ctx)
	for _, m := range g.members {
		if m.snapshot != nil {
			continue
		}
		m.consistency = repository.Live
		if pods && lasted == nil {
			m.consistency = repository.ApplicationConsistent
		}
	}
	if lasted != nil {
		g.run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "volumes", Subject: g.run.Item, Text: "its files changed while they were read: " + lasted.Error()})
	}
}

// store moves one volume's content into the repository.
func (g *volumeGroup) store(ctx context.Context, m *groupMember, before volumeHistory, progress volume.Progress) (repository.VolumeLayer, []repository.File, error) {
	layer, err := g.describe(m)
	if err != nil || layer.Mode == repository.VolumeSnapshot {
		return layer, nil, err
	}
	g.run.Progress.Status("content of " + layer.ID)
	if m.Volume.Content == providers.ContentFiles {
		return g.storeFiles(ctx, m, layer, before, progress)
	}
	base, err := before.blockBase(ctx, g.run, m.info)
	if err != nil {
		return layer, nil, err
	}
	stored, err := volume.BlockCapture{
		Provider: m.provider, Snapshot: *m.snapshot, Base: base, Repository: g.run.Repository, Name: layer.ID, Progress: progress,
	}.Capture(ctx)
	if err != nil {
		return layer, nil, err
	}
	layer.Image, layer.ReadBytes, layer.NewBytes = stored.Image.Contents(layer.Path), stored.Read, stored.Stats.WrittenBytes
	if stored.Incremental {
		layer.Base = before.point.ID
	}
	return layer, stored.Image.Tree(), nil
}

func (g *volumeGroup) seal(ctx context.Context, layer repository.VolumeLayer, files []repository.File) (capturedVolume, error) {
	description, err := yaml.Marshal(layer)
	if err != nil {
		return capturedVolume{}, fault.New("describe volume", fault.Internal, layer.ID, err)
	}
	stored, err := g.run.Repository.Put(ctx, layer.Path+"/volume.yaml", strings.NewReader(string(description)))
	if err != nil {
		return capturedVolume{}, err
	}
	tree, err := g.run.Repository.PutTree(ctx, append(files, repository.File{Path: "volume.yaml", Object: stored}))
	return capturedVolume{Layer: layer, Tree: tree}, err
}

// forget deletes snapshots that nothing needs any more: those whose content is in the repository and
// that no later capture can build on, and the bases of captures before the last. The content is durable
// first.
func (g *volumeGroup) forget(ctx context.Context, captured []capturedVolume, history volumesHistory) error {
	if g.mode() != repository.VolumeRepository {
		return nil
	}
	if err := g.run.Repository.Flush(ctx); err != nil {
		return err
	}
	for i, m := range g.members {
		if m.snapshot != nil && (!m.info.Can(providers.CapChanged) || m.Volume.Content != providers.ContentBlocks) {
			if err := m.provider.DeleteSnapshot(ctx, m.snapshot.Handle); err != nil {
				return err
			}
			captured[i].Layer.Snapshot = nil
		}
		for _, old := range history.of(m.Storage, m.Volume.ID).outdated {
			if err := m.provider.DeleteSnapshot(ctx, old); err != nil {
				g.run.Log.WarnContext(ctx, "an old base is still there; muster provider orphans finds it", "volume", m.Volume.ID, "error", err)
			}
		}
	}
	return nil
}
