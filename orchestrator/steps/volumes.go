package steps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// backendsOf starts the providers of the named storages; none means all of the document.
func backendsOf(ctx context.Context, run *orchestrator.Run, names []string) ([]volume.Backend, error) {
	if len(names) == 0 {
		for _, storage := range run.Storages() {
			names = append(names, storage.Name)
		}
	}
	backends := make([]volume.Backend, 0, len(names))
	for _, name := range names {
		provider, _, err := run.Storage(ctx, name)
		if err != nil {
			return nil, err
		}
		backends = append(backends, volume.Backend{Storage: name, Provider: provider})
	}
	return backends, nil
}

// usable refuses a backend that cannot work now, and one that lacks a capability.
func usable(ctx context.Context, backend volume.Backend, wanted ...providers.Capability) error {
	info, err := backend.Provider.Info(ctx)
	if err != nil {
		return err
	}
	for _, capability := range wanted {
		if !info.Can(capability) {
			return fault.Newf("check storage", fault.Unsupported, backend.Storage, "its provider %s cannot do %s", info.Name, capability)
		}
	}
	health, err := backend.Provider.Health(ctx)
	if err != nil {
		return err
	}
	if !health.Usable {
		return fault.Newf("check storage", fault.Busy, backend.Storage, "it is not usable now: %s", strings.Join(health.Problems, "; "))
	}
	return nil
}

// tokenOf is the same for the same part of the same task of the same run, however often it is tried.
func tokenOf(run *orchestrator.Run, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{run.ID, run.Step, run.Item}, parts...), "\x00")))
	return "muster-" + hex.EncodeToString(sum[:12])
}

// tagsOf mark what a task makes at a backend.
func tagsOf(run *orchestrator.Run) map[string]string {
	tags := map[string]string{providers.TagRun: run.ID, providers.TagStep: run.Step, providers.TagItem: run.Item}
	if run.Cluster != nil {
		tags[providers.TagCluster] = run.Cluster.Metadata.Name
	}
	if run.Repository != nil {
		tags[providers.TagRepository] = run.Repository.UniqueID()
	}
	return tags
}

// ownTags choose what one task of this run has made.
func ownTags(run *orchestrator.Run) providers.Query {
	return providers.Query{Tags: map[string]string{providers.TagRun: run.ID, providers.TagStep: run.Step, providers.TagItem: run.Item}}
}

// abandonSnapshots deletes the snapshots that one task has made.
func abandonSnapshots(ctx context.Context, run *orchestrator.Run, backends []volume.Backend) error {
	for _, backend := range backends {
		var made []providers.Snapshot
		err := backend.Provider.ListSnapshots(ctx, ownTags(run), func(s providers.Snapshot) error {
			made = append(made, s)
			return nil
		})
		if fault.Is(err, fault.Unsupported) {
			continue
		}
		if err != nil {
			return err
		}
		for _, snapshot := range made {
			if err := backend.Provider.DeleteSnapshot(ctx, snapshot.Handle); err != nil {
				return err
			}
		}
	}
	return nil
}

// sharedProgress adds up what several moves of one task do.
type sharedProgress struct {
	orchestrator.Progress
	mu     sync.Mutex
	totals map[string]int64
}

func newSharedProgress(to orchestrator.Progress) *sharedProgress {
	return &sharedProgress{Progress: to, totals: map[string]int64{}}
}

// of is the progress of one move.
func (p *sharedProgress) of(name string) volume.Progress { return moveProgress{p, name} }

type moveProgress struct {
	*sharedProgress
	name string
}

// Total announces what this move expects.
func (m moveProgress) Total(bytes, _ int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.totals[m.name] = bytes
	var sum int64
	for _, total := range m.totals {
		sum += total
	}
	m.Progress.Total(sum, 0)
}

// knownStorages refuses names that the document lacks.
func knownStorages(run *orchestrator.Run, names []string) error {
	known := run.Storages()
	for _, name := range names {
		if !slices.ContainsFunc(known, func(s plans.Storage) bool { return s.Name == name }) {
			return fault.Newf("check storage", fault.NotFound, name, "the document has no such storage under spec.storage")
		}
	}
	return nil
}
