package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// CreateMachines makes a cloud's machines again from what a capture by machine described, with the content
// of their volumes: from snapshots that the target has, else from the repository. Its items are the
// machines' IDs.
type CreateMachines struct {
	// Storage maps the capture's storages to those of the target; one that is not named keeps its name.
	Storage map[string]string `yaml:"storage,omitempty"`
	// Zones maps zones; one that is not named stays.
	Zones map[string]string `yaml:"zones,omitempty"`
	// Parameters are set over those of the captured machines: a subnet, security groups of another region.
	// One with an empty value is left out.
	Parameters map[string]string `yaml:"parameters,omitempty"`
}

// createdMachine is what create-machines leaves for each machine.
type createdMachine struct {
	Storage string            `json:"storage"`
	Machine providers.Machine `json:"machine"`
	// Made are snapshots that were made from the repository for the machine alone.
	Made []providers.Handle `json:"made,omitempty"`
}

// Items are the IDs of the point's machines of clouds.
func (s *CreateMachines) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	var items []string
	for _, m := range manifest.CloudMachines {
		items = append(items, m.ID)
	}
	return items, nil
}

// Check looks whether the providers can make machines.
func (s *CreateMachines) Check(ctx context.Context, run *orchestrator.Run) error {
	if err := knownStorages(run, slices.Sorted(maps.Values(s.Storage))); err != nil {
		return err
	}
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return err
	}
	for _, m := range manifest.CloudMachines {
		name := s.targetOf(m)
		provider, _, err := run.Storage(ctx, name)
		if err != nil {
			return err
		}
		if err := usable(ctx, volume.Backend{Storage: name, Provider: provider}, providers.CapMachines); err != nil {
			return err
		}
	}
	return nil
}

func (s *CreateMachines) targetOf(m repository.CloudMachine) string {
	if name, mapped := s.Storage[m.Storage]; mapped {
		return name
	}
	return m.Storage
}

// Do makes one machine.
func (s *CreateMachines) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(manifest.CloudMachines, func(m repository.CloudMachine) bool { return m.ID == run.Item })
	if i < 0 {
		return nil, fault.Newf("find machine", fault.NotFound, run.Item, "the recovery point describes no such machine")
	}
	captured := manifest.CloudMachines[i]
	var described providers.Machine
	if err := json.Unmarshal(captured.Machine, &described); err != nil {
		return nil, fault.New("read machine", fault.Corrupt, captured.ID, err)
	}
	out := createdMachine{Storage: s.targetOf(captured)}
	provider, _, err := run.Storage(ctx, out.Storage)
	if err != nil {
		return nil, err
	}
	request := s.request(run, described)
	for _, id := range described.VolumeIDs {
		disk, made, err := s.disk(ctx, run, provider, manifest, captured, id)
		if fault.Is(err, fault.NotFound) {
			run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Lost, Layer: "machines", Subject: described.Name + " " + id, Text: "its disk comes back empty, or not at all: " + err.Error()})
			continue
		}
		if err != nil {
			return nil, err
		}
		request.Disks[id] = disk
		if made {
			out.Made = append(out.Made, disk)
		}
	}
	run.Progress.Status("machine " + described.Name)
	if out.Machine, err = provider.CreateMachine(ctx, request); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

func (s *CreateMachines) request(run *orchestrator.Run, described providers.Machine) providers.MachineRequest {
	request := providers.MachineRequest{
		Token: tokenOf(run, "machine"), Name: described.Name, Zone: described.Zone, Tags: tagsOf(run),
		Parameters: maps.Clone(described.Parameters), Disks: map[string]providers.Handle{},
	}
	if zone, mapped := s.Zones[request.Zone]; mapped {
		request.Zone = zone
	}
	if request.Parameters == nil {
		request.Parameters = map[string]string{}
	}
	for name, value := range s.Parameters {
		request.Parameters[name] = value
		if value == "" {
			delete(request.Parameters, name)
		}
	}
	return request
}

// disk finds a snapshot with a volume's content at the target, or makes one from the repository.
func (s *CreateMachines) disk(ctx context.Context, run *orchestrator.Run, provider providers.Provider, manifest repository.Manifest, captured repository.CloudMachine, id string) (snapshot providers.Handle, made bool, _ error) {
	i := slices.IndexFunc(manifest.Volumes, func(v repository.VolumeLayer) bool { return v.Storage == captured.Storage && v.ID == id })
	if i < 0 {
		return providers.Handle{}, false, fault.Newf("find volume", fault.NotFound, id, "the recovery point does not hold it")
	}
	layer := manifest.Volumes[i]
	found, err := presentSnapshot(ctx, provider, layer, s.targetOf(captured))
	if err == nil || !fault.Is(err, fault.NotFound) || layer.Image == nil {
		return found.Handle, false, err
	}
	image, err := imageOf(ctx, run, layer)
	if err != nil {
		return providers.Handle{}, false, err
	}
	filled, err := volume.RestoreBlocks(ctx, run.Repository, image, provider, providers.WriteRequest{CreateRequest: providers.CreateRequest{
		Token: tokenOf(run, "disk", id), Name: itemOf(layer), Content: providers.ContentBlocks, Size: layer.Size, Zone: s.Zones[layer.Zone], Tags: tagsOf(run), Parameters: layer.Parameters,
	}}, run.Progress)
	if err != nil {
		return providers.Handle{}, false, err
	}
	set, err := provider.Snapshot(ctx, providers.SnapshotRequest{Token: tokenOf(run, "disk", id), Volumes: []providers.Handle{filled.Handle}, Tags: tagsOf(run)})
	if err != nil {
		return providers.Handle{}, false, err
	}
	return set.Snapshots[0].Handle, true, provider.DeleteVolume(ctx, filled.Handle)
}

// Verify asks for the machine.
func (s *CreateMachines) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var made createdMachine
	if err := json.Unmarshal(receipt, &made); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	provider, _, err := run.Storage(ctx, made.Storage)
	if err != nil {
		return err
	}
	found := false
	err = provider.DiscoverMachines(ctx, providers.Query{IDs: []string{made.Machine.ID}}, func(m providers.Machine) error {
		found = m.State == "running"
		return nil
	})
	if err == nil && !found {
		err = fault.Newf("verify machine", fault.Transient, made.Machine.ID, "it does not run")
	}
	return err
}

// Undo deletes the machine, and the snapshots that were made for it.
func (s *CreateMachines) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var made createdMachine
	if err := json.Unmarshal(receipt, &made); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	provider, _, err := run.Storage(ctx, made.Storage)
	if err != nil {
		return err
	}
	if err := provider.DeleteMachine(ctx, made.Machine.Handle); err != nil {
		return err
	}
	var left []error
	for _, snapshot := range made.Made {
		left = append(left, provider.DeleteSnapshot(ctx, snapshot))
	}
	return errors.Join(left...)
}

// Abandon deletes what an attempt made whose receipt was never written.
func (s *CreateMachines) Abandon(ctx context.Context, run *orchestrator.Run) error {
	names := map[string]bool{}
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return err
	}
	for _, m := range manifest.CloudMachines {
		names[s.targetOf(m)] = true
	}
	backends, err := backendsOf(ctx, run, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return err
	}
	for _, backend := range backends {
		if err := abandonMachines(ctx, run, backend.Provider); err != nil {
			return err
		}
	}
	return abandonSnapshots(ctx, run, backends)
}

func abandonMachines(ctx context.Context, run *orchestrator.Run, provider providers.Provider) error {
	var machines []providers.Machine
	err := provider.DiscoverMachines(ctx, ownTags(run), func(m providers.Machine) error {
		machines = append(machines, m)
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range machines {
		if err := provider.DeleteMachine(ctx, m.Handle); err != nil {
			return err
		}
	}
	return abandonVolumes(ctx, run, provider)
}

// Left implements orchestrator.Leaver.
func (s *CreateMachines) Left(receipt orchestrator.Receipt) string {
	var made createdMachine
	_ = json.Unmarshal(receipt, &made) // an unreadable receipt names nothing
	return fmt.Sprintf("machine %s at %s; terminate it with the cloud's own tools", made.Machine.ID, made.Storage)
}

// Summarize counts the machine.
func (s *CreateMachines) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var made createdMachine
	err := json.Unmarshal(receipt, &made)
	return orchestrator.Summary{Layer: "machines", Unit: "machines", Expected: 1, Done: 1, Text: made.Machine.ID}, err
}
