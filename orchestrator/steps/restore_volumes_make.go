package steps

import (
	"context"
	"encoding/json"
	"errors"
	"maps"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// volumeRestore is one item of restore-volumes at work.
type volumeRestore struct {
	*RestoreVolumes
	run      *orchestrator.Run
	layer    repository.VolumeLayer
	storage  string
	provider providers.Provider
	info     providers.Info
}

// lost reports a volume that does not come back, and lets the others go on.
func (r *volumeRestore) lost(reason string) (orchestrator.Receipt, error) {
	subject := r.layer.ID
	if r.layer.PVC != "" {
		subject = r.layer.PVC
	}
	r.run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Lost, Layer: "volumes", Subject: subject, Text: reason})
	return json.Marshal(restoredVolume{Lost: reason})
}

func (r *volumeRestore) make(ctx context.Context) (restoredVolume, error) {
	if r.From != FromRepository && r.info.Name == r.layer.Provider {
		restored, err := r.clone(ctx)
		if err == nil || r.From == FromSnapshot || !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Unsupported) {
			return restored, err
		}
		r.run.Log.InfoContext(ctx, "no snapshot to clone; the repository has the content", "volume", r.layer.ID, "reason", err)
	}
	if r.From == FromSnapshot {
		return restoredVolume{}, fault.Newf("restore volume", fault.Unsupported, r.layer.ID, "storage %s is no %s: its snapshots cannot be cloned there; leave out from: snapshot", r.storage, r.layer.Provider)
	}
	if r.layer.Content == string(providers.ContentFiles) {
		return r.unpack(ctx)
	}
	return r.write(ctx)
}

// clone makes the volume of the snapshot, or of a copy of it, that the target's backend has.
func (r *volumeRestore) clone(ctx context.Context) (restoredVolume, error) {
	snapshot, err := presentSnapshot(ctx, r.provider, r.layer, r.storage)
	if err != nil {
		return restoredVolume{}, err
	}
	request := r.request()
	request.Snapshot = snapshot.Handle
	made, err := r.provider.Create(r.reporting(ctx), request)
	return restoredVolume{Storage: r.storage, Volume: made, From: FromSnapshot, Bytes: r.layer.Size}, err
}

// presentSnapshot is the volume's snapshot, or a copy of it, that a target's backend has. Where the target is
// another storage than the captured one, copies are looked at first: they were made for such a place.
func presentSnapshot(ctx context.Context, provider providers.Provider, layer repository.VolumeLayer, target string) (providers.Snapshot, error) {
	encoded := []json.RawMessage{}
	for _, copied := range layer.Copies {
		encoded = append(encoded, copied.Snapshot)
	}
	if target == layer.Storage {
		encoded = append([]json.RawMessage{layer.Snapshot}, encoded...)
	} else {
		encoded = append(encoded, layer.Snapshot)
	}
	missing := fault.Newf("find snapshot", fault.NotFound, layer.ID, "the recovery point keeps no snapshot of it")
	for _, raw := range encoded {
		if len(raw) == 0 {
			continue
		}
		var snapshot providers.Snapshot
		if err := json.Unmarshal(raw, &snapshot); err != nil {
			return snapshot, fault.New("read snapshot", fault.Corrupt, layer.ID, err)
		}
		found, err := provider.SnapshotOf(ctx, snapshot.Handle)
		if err == nil || !fault.Is(err, fault.NotFound) {
			return found, err
		}
		missing = err
	}
	return providers.Snapshot{}, missing
}

// write fills a new volume from the image in the repository.
func (r *volumeRestore) write(ctx context.Context) (restoredVolume, error) {
	if r.layer.Image == nil {
		return restoredVolume{}, fault.Newf("restore volume", fault.NotFound, r.layer.ID, "the recovery point holds its snapshot alone, and storage %s does not have it", r.storage)
	}
	image, err := imageOf(ctx, r.run, r.layer)
	if err != nil {
		return restoredVolume{}, err
	}
	r.run.Progress.Status("content of " + r.layer.ID)
	made, err := volume.RestoreBlocks(r.reporting(ctx), r.run.Repository, image, r.provider, providers.WriteRequest{CreateRequest: r.request()}, r.run.Progress)
	return restoredVolume{Storage: r.storage, Volume: made, From: FromRepository, Bytes: r.layer.Size}, err
}

func (r *volumeRestore) request() providers.CreateRequest {
	request := providers.CreateRequest{
		Token: tokenOf(r.run, r.storage), Name: r.name(), Content: providers.Content(r.layer.Content), Size: r.layer.Size,
		Zone: r.layer.Zone, Tags: tagsOf(r.run), Parameters: map[string]string{},
	}
	if zone, mapped := r.Zones[request.Zone]; mapped {
		request.Zone = zone
	}
	if r.info.Name == r.layer.Provider {
		maps.Copy(request.Parameters, r.layer.Parameters)
	} else if r.Zones[r.layer.Zone] == "" {
		request.Zone = "" // a zone of another kind of backend says nothing here
	}
	maps.Copy(request.Parameters, r.Parameters[r.storage])
	return request
}

// name is what the new volume should be called: the PersistentVolume's name, where there is one.
func (r *volumeRestore) name() string {
	if r.layer.PV != "" {
		return r.layer.PV
	}
	return itemOf(r.layer)
}

// imageOf finds the image of a volume in the run's recovery point.
func imageOf(ctx context.Context, run *orchestrator.Run, layer repository.VolumeLayer) (repository.Image, error) {
	point, err := run.Repository.Point(ctx, run.Point)
	if err != nil {
		return repository.Image{}, err
	}
	return run.Repository.Image(ctx, point, layer)
}

// reporting shows what the provider says of a long call.
func (r *volumeRestore) reporting(ctx context.Context) context.Context {
	return providers.WithProgress(ctx, func(p providers.Progress) {
		if p.Text != "" {
			r.run.Progress.Status(r.layer.ID + ": " + p.Text)
		}
	})
}

// verifyContent reads a restored volume back, through a snapshot that is deleted again.
func verifyContent(ctx context.Context, run *orchestrator.Run, layer repository.VolumeLayer, provider providers.Provider, restored providers.Volume) error {
	if restored.Content == providers.ContentFiles {
		return verifyFiles(ctx, run, layer, provider, restored)
	}
	if layer.Image == nil {
		return nil // it is a clone: there is nothing else to compare it with
	}
	image, err := imageOf(ctx, run, layer)
	if err != nil {
		return err
	}
	run.Progress.Status("reading back " + layer.ID)
	set, err := provider.Snapshot(ctx, providers.SnapshotRequest{Token: tokenOf(run, "verify"), Volumes: []providers.Handle{restored.Handle}, Tags: tagsOf(run)})
	if err != nil {
		return err
	}
	err = volume.CompareBlocks(ctx, run.Repository, image, provider, set.Snapshots[0])
	return errors.Join(err, provider.DeleteSnapshot(context.WithoutCancel(ctx), set.Snapshots[0].Handle))
}
