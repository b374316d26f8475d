package orchestrator

import (
	"context"
	"slices"
	"strings"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// ProviderSource starts providers: package host, in the muster command.
type ProviderSource interface {
	// Provider returns the configured provider of a backend. Calls with the same storage share one process;
	// it outlives the step. A provider whose process died is started again by the next call to it.
	Provider(ctx context.Context, storage plans.Storage) (providers.Provider, error)
}

// Storages are the backends of the cluster that a run works on: those of the target machines in a
// rebuild, else those of the cluster.
func (r *Run) Storages() []plans.Storage {
	if r.Machines != nil {
		return r.Machines.Spec.Storage
	}
	if r.Cluster != nil {
		return r.Cluster.Spec.Storage
	}
	return nil
}

// Storage returns a backend by its name in the document, and its provider.
func (r *Run) Storage(ctx context.Context, name string) (providers.Provider, plans.Storage, error) {
	storages := r.Storages()
	i := slices.IndexFunc(storages, func(s plans.Storage) bool { return s.Name == name })
	if i < 0 {
		return nil, plans.Storage{}, fault.Newf("find storage", fault.NotFound, name, "the document names %s under spec.storage: add it there", namesOf(storages))
	}
	if r.providers == nil {
		return nil, plans.Storage{}, fault.Newf("start provider", fault.Unsupported, storages[i].Provider, "this process starts no providers")
	}
	provider, err := r.providers.Provider(ctx, storages[i])
	return provider, storages[i], err
}

func namesOf(storages []plans.Storage) string {
	if len(storages) == 0 {
		return "nothing"
	}
	names := make([]string, 0, len(storages))
	for _, s := range storages {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}
