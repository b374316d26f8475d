package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// CaptureVolumes takes snapshots of volumes, group by group, and moves what has changed since the last
// recovery point into the repository. Its items are the groups.
type CaptureVolumes struct {
	// Storage are names of the inventory's storages; empty means all.
	Storage []string `yaml:"storage,omitempty"`
	// Namespaces and Exclude are patterns of namespaces whose claims are meant; no Namespaces means all.
	Namespaces []string `yaml:"namespaces,omitempty"`
	Exclude    []string `yaml:"exclude,omitempty"`
	// Tags choose volumes by their tags at the backends, in place of the cluster's claims.
	Tags map[string]string `yaml:"tags,omitempty"`
	// GroupBy says which volumes belong together: workload (the default), volume, namespace, machine or all.
	GroupBy volume.Grouping `yaml:"groupBy,omitempty"`
	// Mode is repository (the default), snapshot or both.
	Mode repository.VolumeMode `yaml:"mode,omitempty"`
	// Atomic refuses a group whose backend cannot take all its volumes at one instant.
	Atomic bool `yaml:"atomic,omitempty"`
	// RefuseLive refuses volumes whose backend takes no snapshots, in place of reading them while they change.
	RefuseLive bool           `yaml:"refuseLive,omitempty"`
	Quiesce    VolumesQuiesce `yaml:"quiesce,omitempty"`
}

// VolumesQuiesce says what is held still while a group's snapshots are taken.
type VolumesQuiesce struct {
	// Freeze runs fsfreeze on every place where a pod has one of the volumes mounted.
	Freeze bool          `yaml:"freeze,omitempty"`
	Hooks  []QuiesceHook `yaml:"hooks,omitempty"`
	// Databases are names or patterns of the Cluster document's databases whose writers wait. The volumes must be one
	// group.
	Databases []string       `yaml:"databases,omitempty"`
	Within    plans.Duration `yaml:"within,omitempty"` // how long at most; default 30s
	// Optional goes on with a crash-consistent capture when something could not be held still.
	Optional bool `yaml:"optional,omitempty"`
}

// QuiesceHook is a pair of scripts for pods of the group's namespace: Pre holds them still, and Post,
// which runs in any case, lets them go on.
type QuiesceHook struct {
	Namespace string `yaml:"namespace,omitempty"` // default: that of each group
	Selector  string `yaml:"selector"`            // labels: "app=db"
	Container string `yaml:"container,omitempty"`
	Pre       string `yaml:"pre"`
	Post      string `yaml:"post"`
}

const defaultQuiesce = 30 * time.Second

func (q VolumesQuiesce) within() time.Duration {
	return cmp.Or(time.Duration(q.Within), defaultQuiesce)
}

// volumesReceipt is what capture-volumes leaves for each group.
type volumesReceipt struct {
	Volumes []capturedVolume     `json:"volumes,omitempty"`
	Left    []repository.LeftOut `json:"left,omitempty"`
	// Machines are those that the volumes are attached to, when machines make the groups.
	Machines []repository.CloudMachine `json:"machines,omitempty"`
}

type capturedVolume struct {
	Layer repository.VolumeLayer `json:"layer"`
	Tree  repository.Tree        `json:"tree"` // volumes/<id>
}

// Items are the groups' names.
func (s *CaptureVolumes) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	members, err := s.find(ctx, run, volume.Choice{Namespaces: s.Namespaces, Exclude: s.Exclude})
	if err != nil {
		return nil, err
	}
	groups := s.GroupBy.Keys(members)
	return groups, s.oneGroup(groups)
}

// find lists what is chosen. By tags, the backends tell; else the cluster does, and no backend is asked
// yet.
func (s *CaptureVolumes) find(ctx context.Context, run *orchestrator.Run, choice volume.Choice) ([]volume.Claimed, error) {
	if len(s.Tags) > 0 {
		return s.findByTags(ctx, run)
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return volume.List(ctx, client.Kubernetes(), choice)
}

// groupChoice are the namespaces in which the members of one group are: its own, unless a group has several.
func (s *CaptureVolumes) groupChoice(item string) volume.Choice {
	if s.GroupBy == volume.ByMachine || s.GroupBy == volume.All {
		return volume.Choice{Namespaces: s.Namespaces, Exclude: s.Exclude}
	}
	namespace, _, _ := strings.Cut(item, "/")
	return volume.Choice{Namespaces: []string{namespace}}
}

func (s *CaptureVolumes) findByTags(ctx context.Context, run *orchestrator.Run) ([]volume.Claimed, error) {
	backends, err := backendsOf(ctx, run, s.Storage)
	if err != nil {
		return nil, err
	}
	var found []volume.Claimed
	for _, backend := range backends {
		err := backend.Provider.Discover(ctx, providers.Query{Tags: s.Tags}, func(v providers.Volume) error {
			found = append(found, volume.Claimed{Namespace: backend.Storage, Claim: v.ID, Storage: backend.Storage, Volume: v})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, func(a, b volume.Claimed) int {
		return cmp.Or(strings.Compare(a.Storage, b.Storage), strings.Compare(a.Volume.ID, b.Volume.ID))
	})
	return found, nil
}

// Check starts the providers and asks whether their backends are usable.
func (s *CaptureVolumes) Check(ctx context.Context, run *orchestrator.Run) error {
	if err := s.checkSettings(run); err != nil {
		return err
	}
	backends, err := backendsOf(ctx, run, s.Storage)
	if err != nil {
		return err
	}
	for _, backend := range backends {
		if err := usable(ctx, backend); err != nil {
			return err
		}
	}
	return nil
}

func (s *CaptureVolumes) checkSettings(run *orchestrator.Run) error {
	if s.GroupBy != "" && !slices.Contains(volume.Groupings(), s.GroupBy) {
		return fault.Newf("check groupBy", fault.Invalid, string(s.GroupBy), "want one of %v", volume.Groupings())
	}
	modes := []repository.VolumeMode{"", repository.VolumeRepository, repository.VolumeSnapshot, repository.VolumeBoth}
	if !slices.Contains(modes, s.Mode) {
		return fault.Newf("check mode", fault.Invalid, string(s.Mode), "want repository, snapshot or both")
	}
	if len(s.Tags) > 0 && len(s.Namespaces)+len(s.Exclude) > 0 {
		return fault.Newf("check tags", fault.Invalid, run.Step, "tags choose volumes in place of namespaces: give one of both")
	}
	for _, hook := range s.Quiesce.Hooks {
		if hook.Selector == "" || hook.Pre == "" || hook.Post == "" {
			return fault.Newf("check quiesce", fault.Invalid, run.Step, "a hook wants selector, pre and post")
		}
	}
	if err := s.checkDatabases(run); err != nil {
		return err
	}
	return knownStorages(run, s.Storage)
}

// Do captures one group.
func (s *CaptureVolumes) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	g, err := s.open(ctx, run)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.snapshot(ctx); err != nil {
		return nil, err
	}
	captured, err := g.move(ctx)
	if err != nil {
		return nil, err
	}
	machines, err := g.machines(ctx)
	if err != nil {
		return nil, err
	}
	if err := run.Repository.Flush(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(volumesReceipt{Volumes: captured, Left: g.left, Machines: machines})
}

// Verify asks the backends for the snapshots that were kept, and opens what was stored.
func (s *CaptureVolumes) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r volumesReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	for _, v := range r.Volumes {
		tree, err := run.Repository.Open(ctx, v.Tree.ID)
		if err != nil {
			return err
		}
		_ = tree.Close() // it was only opened
		if len(v.Layer.Snapshot) == 0 {
			continue
		}
		if _, err := snapshotOf(ctx, run, v.Layer.Storage, v.Layer.Snapshot); err != nil {
			return err
		}
	}
	return nil
}

// snapshotOf asks a storage's provider for a snapshot that a manifest or a receipt holds.
func snapshotOf(ctx context.Context, run *orchestrator.Run, storage string, encoded json.RawMessage) (providers.Snapshot, error) {
	var snapshot providers.Snapshot
	if err := json.Unmarshal(encoded, &snapshot); err != nil {
		return snapshot, fault.New("read snapshot", fault.Corrupt, storage, err)
	}
	provider, _, err := run.Storage(ctx, storage)
	if err != nil {
		return snapshot, err
	}
	return provider.SnapshotOf(ctx, snapshot.Handle)
}

// Undo deletes the snapshots; content that no point refers to is garbage for maintenance.
func (s *CaptureVolumes) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r volumesReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	for _, v := range r.Volumes {
		if len(v.Layer.Snapshot) == 0 {
			continue
		}
		var snapshot providers.Snapshot
		if err := json.Unmarshal(v.Layer.Snapshot, &snapshot); err != nil {
			return fault.New("read receipt", fault.Corrupt, v.Layer.ID, err)
		}
		provider, _, err := run.Storage(ctx, v.Layer.Storage)
		if err != nil {
			return err
		}
		if err := provider.DeleteSnapshot(ctx, snapshot.Handle); err != nil {
			return err
		}
	}
	return nil
}

// Abandon deletes the snapshots that an attempt took and whose receipt was never written.
func (s *CaptureVolumes) Abandon(ctx context.Context, run *orchestrator.Run) error {
	backends, err := backendsOf(ctx, run, s.Storage)
	if err != nil {
		return err
	}
	return abandonSnapshots(ctx, run, backends)
}

// Left implements orchestrator.Leaver.
func (s *CaptureVolumes) Left(receipt orchestrator.Receipt) string {
	var r volumesReceipt
	_ = json.Unmarshal(receipt, &r) // an unreadable receipt names nothing
	var names []string
	for _, v := range r.Volumes {
		var snapshot providers.Snapshot
		if json.Unmarshal(v.Layer.Snapshot, &snapshot) == nil && snapshot.ID != "" {
			names = append(names, v.Layer.Storage+" "+snapshot.ID)
		}
	}
	return fmt.Sprintf("snapshots %s; muster provider orphans finds them", strings.Join(names, ", "))
}

// Summarize counts the volumes.
func (s *CaptureVolumes) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r volumesReceipt
	err := json.Unmarshal(receipt, &r)
	out := orchestrator.Summary{Layer: "volumes", Unit: "volumes", Expected: int64(len(r.Volumes)), Done: int64(len(r.Volumes))}
	var added int64
	for _, v := range r.Volumes {
		out.Bytes += v.Layer.Size
		added += v.Layer.NewBytes
	}
	out.Text = fmt.Sprintf("%d bytes new", added)
	return out, err
}
