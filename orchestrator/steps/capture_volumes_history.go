package steps

import (
	"context"
	"encoding/json"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// volumesHistory is what earlier recovery points know of volumes, by storage and volume.
type volumesHistory map[string]volumeHistory

// volumeHistory is what the newest point that has a volume's content knows of it.
type volumeHistory struct {
	point    repository.Point
	layer    repository.VolumeLayer
	outdated []providers.Handle // snapshots that were kept as bases of points before
}

// historyPoints is how many points back a capture looks: each capture cleans up after the one before.
const historyPoints = 4

func (h volumesHistory) of(storage, id string) volumeHistory { return h[storage+"\x00"+id] }

// blockBase is what an incremental capture can build on, nil when there is nothing.
func (h volumeHistory) blockBase(ctx context.Context, run *orchestrator.Run, info providers.Info) (*volume.Base, error) {
	if h.layer.Image == nil || len(h.layer.Snapshot) == 0 || !info.Can(providers.CapChanged) {
		return nil, nil
	}
	var snapshot providers.Snapshot
	if json.Unmarshal(h.layer.Snapshot, &snapshot) != nil || snapshot.Handle.Provider != info.Name {
		return nil, nil
	}
	image, err := run.Repository.Image(ctx, h.point, h.layer)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Unsupported) {
		return nil, nil
	}
	return &volume.Base{Snapshot: snapshot.Handle, Image: image}, err
}

// historyOf reads what the latest recovery points of the cluster hold of its volumes.
func historyOf(ctx context.Context, run *orchestrator.Run) (volumesHistory, error) {
	history := volumesHistory{}
	points, err := run.Repository.Points(ctx)
	if err != nil {
		return nil, err
	}
	seen := 0
	for _, point := range points { // newest first
		if run.Cluster != nil && point.Cluster != run.Cluster.Metadata.Name {
			continue
		}
		if seen++; seen > historyPoints {
			break
		}
		manifest, err := run.Repository.Manifest(ctx, point)
		if err != nil {
			return nil, err
		}
		for _, layer := range manifest.Volumes {
			history.add(point, layer)
		}
	}
	return history, nil
}

func (h volumesHistory) add(point repository.Point, layer repository.VolumeLayer) {
	if layer.Mode == repository.VolumeSnapshot {
		return
	}
	key := layer.Storage + "\x00" + layer.ID
	newest, known := h[key]
	if !known {
		h[key] = volumeHistory{point: point, layer: layer}
		return
	}
	var snapshot providers.Snapshot
	if layer.Mode == repository.VolumeRepository && json.Unmarshal(layer.Snapshot, &snapshot) == nil && !snapshot.Handle.IsZero() {
		newest.outdated = append(newest.outdated, snapshot.Handle)
		h[key] = newest
	}
}
