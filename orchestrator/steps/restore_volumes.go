package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// RestoreVolumes makes a new volume of each captured one: from its snapshot where the target's backend
// still has it, else from the repository, at the same or another backend. Its items are the names of the volumes'
// folders in the point.
type RestoreVolumes struct {
	// Storage maps the capture's storages to those of the target; one that is not named keeps its name.
	Storage map[string]string `yaml:"storage,omitempty"`
	// Namespaces and Exclude are patterns of namespaces whose volumes are meant; no Namespaces means all.
	Namespaces []string `yaml:"namespaces,omitempty"`
	Exclude    []string `yaml:"exclude,omitempty"`
	// Zones maps zones; one that is not named stays.
	Zones map[string]string `yaml:"zones,omitempty"`
	// Parameters are set for new volumes, by the target's storage, over those of the captured volume:
	// {fast: {pool: ssd}}. At a backend of another kind they are all that is set.
	Parameters map[string]map[string]string `yaml:"parameters,omitempty"`
	// From is auto (the default), repository or snapshot.
	From RestoreFrom `yaml:"from,omitempty"`
	// Verify is volume (the default: each is there, with its size) or content: each is read back and
	// compared with the recovery point.
	Verifies VolumeCheck `yaml:"verify,omitempty"`
}

// RestoreFrom says where content is taken from.
type RestoreFrom string

// The sources. Auto clones a snapshot where the target's backend has it, and reads the repository else.
const (
	FromAuto       RestoreFrom = "auto"
	FromRepository RestoreFrom = "repository"
	FromSnapshot   RestoreFrom = "snapshot"
)

// VolumeCheck says how a restored volume is verified.
type VolumeCheck string

// The checks.
const (
	CheckVolume  VolumeCheck = "volume"
	CheckContent VolumeCheck = "content"
)

// restoredVolume is what restore-volumes leaves for each volume. One that was lost has a reason alone.
type restoredVolume struct {
	Storage string           `json:"storage,omitempty"`
	Volume  providers.Volume `json:"volume"`
	From    RestoreFrom      `json:"from,omitempty"`
	Bytes   int64            `json:"bytes"`
	Lost    string           `json:"lost,omitempty"`
}

// Items are the chosen volumes.
func (s *RestoreVolumes) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	var items []string
	for _, layer := range manifest.Volumes {
		taken, err := matchesAny(namespaceOf(layer), s.Namespaces, s.Exclude)
		if err != nil {
			return nil, err
		}
		if taken {
			items = append(items, itemOf(layer))
		}
	}
	return items, nil
}

// matchesAny reports whether a namespace is among patterns and not among those excluded.
func matchesAny(namespace string, include, exclude []string) (bool, error) {
	for i, pattern := range slices.Concat(exclude, include) {
		matched, err := path.Match(pattern, namespace)
		if err != nil {
			return false, fault.New("choose volumes", fault.Invalid, pattern, err)
		}
		if matched {
			return i >= len(exclude), nil
		}
	}
	return len(include) == 0, nil
}

// Check looks whether the backends are usable. A storage that is missing makes its volumes lost, not the
// rebuild impossible; it is reported.
func (s *RestoreVolumes) Check(ctx context.Context, run *orchestrator.Run) error {
	if !slices.Contains([]RestoreFrom{"", FromAuto, FromRepository, FromSnapshot}, s.From) {
		return fault.Newf("check from", fault.Invalid, string(s.From), "want auto, repository or snapshot")
	}
	if !slices.Contains([]VolumeCheck{"", CheckVolume, CheckContent}, s.Verifies) {
		return fault.Newf("check verify", fault.Invalid, string(s.Verifies), "want volume or content")
	}
	if err := knownStorages(run, slices.Concat(slices.Sorted(maps.Values(s.Storage)), slices.Sorted(maps.Keys(s.Parameters)))); err != nil {
		return err
	}
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return err
	}
	checked := map[string]bool{}
	for _, layer := range manifest.Volumes {
		name := s.targetOf(layer)
		if checked[name] || !hasStorage(run, name) {
			continue
		}
		checked[name] = true
		provider, _, err := run.Storage(ctx, name)
		if err != nil {
			return err
		}
		if err := usable(ctx, volume.Backend{Storage: name, Provider: provider}); err != nil {
			return err
		}
	}
	return nil
}

func (s *RestoreVolumes) targetOf(layer repository.VolumeLayer) string {
	if name, mapped := s.Storage[layer.Storage]; mapped {
		return name
	}
	return layer.Storage
}

func hasStorage(run *orchestrator.Run, name string) bool {
	return slices.ContainsFunc(run.Storages(), func(s plans.Storage) bool { return s.Name == name })
}

// itemOf names a captured volume among the items of steps: its folder's name.
func itemOf(layer repository.VolumeLayer) string { return path.Base(layer.Path) }

func namespaceOf(layer repository.VolumeLayer) string {
	namespace, _, _ := strings.Cut(layer.PVC, "/")
	return namespace
}

// layerOf is what the manifest says of a volume.
func layerOf(ctx context.Context, run *orchestrator.Run, id string) (repository.VolumeLayer, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return repository.VolumeLayer{}, err
	}
	for _, layer := range manifest.Volumes {
		if itemOf(layer) == id {
			return layer, nil
		}
	}
	return repository.VolumeLayer{}, fault.Newf("find volume", fault.NotFound, id, "the recovery point holds no such volume")
}

// Do makes one volume.
func (s *RestoreVolumes) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	layer, err := layerOf(ctx, run, run.Item)
	if err != nil {
		return nil, err
	}
	r := &volumeRestore{RestoreVolumes: s, run: run, layer: layer, storage: s.targetOf(layer)}
	if !hasStorage(run, r.storage) {
		return r.lost(fmt.Sprintf("the target has no storage %q: add it under spec.storage, or map it with storage: {%s: …}", r.storage, layer.Storage))
	}
	if r.provider, _, err = run.Storage(ctx, r.storage); err != nil {
		return nil, err
	}
	if r.info, err = r.provider.Info(ctx); err != nil {
		return nil, err
	}
	made, err := r.make(ctx)
	if fault.Is(err, fault.Unsupported) || fault.Is(err, fault.NotFound) {
		return r.lost(err.Error())
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(made)
}

// Verify looks whether the volume is there, and reads it back where the plan asks for that.
func (s *RestoreVolumes) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var restored restoredVolume
	if err := json.Unmarshal(receipt, &restored); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	if restored.Lost != "" {
		return nil
	}
	layer, err := layerOf(ctx, run, run.Item)
	if err != nil {
		return err
	}
	provider, _, err := run.Storage(ctx, restored.Storage)
	if err != nil {
		return err
	}
	found, err := provider.Volume(ctx, restored.Volume.Handle)
	if err != nil {
		return err
	}
	if found.Content == providers.ContentBlocks && found.Size < layer.Size {
		return fault.Newf("verify volume", fault.Corrupt, found.ID, "it has %d bytes, the captured one had %d", found.Size, layer.Size)
	}
	if s.Verifies != CheckContent {
		return nil
	}
	return verifyContent(ctx, run, layer, provider, found)
}

// Undo deletes the volume.
func (s *RestoreVolumes) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var restored restoredVolume
	if err := json.Unmarshal(receipt, &restored); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	if restored.Lost != "" {
		return nil
	}
	provider, _, err := run.Storage(ctx, restored.Storage)
	if err != nil {
		return err
	}
	return provider.DeleteVolume(ctx, restored.Volume.Handle)
}

// Abandon deletes what an attempt made whose receipt was never written.
func (s *RestoreVolumes) Abandon(ctx context.Context, run *orchestrator.Run) error {
	layer, err := layerOf(ctx, run, run.Item)
	if err != nil {
		return err
	}
	name := s.targetOf(layer)
	if !hasStorage(run, name) {
		return nil
	}
	provider, _, err := run.Storage(ctx, name)
	if err != nil {
		return err
	}
	return abandonVolumes(ctx, run, provider)
}

// abandonVolumes deletes the volumes that one task has made.
func abandonVolumes(ctx context.Context, run *orchestrator.Run, provider providers.Provider) error {
	var made []providers.Volume
	err := provider.Discover(ctx, ownTags(run), func(v providers.Volume) error {
		made = append(made, v)
		return nil
	})
	if err != nil {
		return err
	}
	for _, v := range made {
		if err := provider.DeleteVolume(ctx, v.Handle); err != nil {
			return err
		}
	}
	return nil
}

// Left implements orchestrator.Leaver.
func (s *RestoreVolumes) Left(receipt orchestrator.Receipt) string {
	var restored restoredVolume
	_ = json.Unmarshal(receipt, &restored) // an unreadable receipt names nothing
	return fmt.Sprintf("volume %s of storage %s; delete it with the backend's own tools", restored.Volume.ID, restored.Storage)
}

// Summarize counts the volume.
func (s *RestoreVolumes) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var restored restoredVolume
	err := json.Unmarshal(receipt, &restored)
	out := orchestrator.Summary{Layer: "volumes", Unit: "volumes", Expected: 1, Done: 1, Bytes: restored.Bytes}
	if restored.Lost != "" {
		out.Done = 0
	}
	return out, err
}
