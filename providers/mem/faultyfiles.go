package mem

import (
	"context"

	"github.com/musterdr/muster/providers"
)

// Attach implements providers.Provider.
func (f *faulty) Attach(ctx context.Context, request providers.AttachRequest) (providers.Attachment, error) {
	needs := providers.CapFiles
	if !request.Snapshot.IsZero() {
		needs = providers.CapSnapFile
	}
	a, _, err := one(ctx, f, "Attach", needs, func(*troubled) (providers.Attachment, error) { return f.inner.Attach(ctx, request) })
	return a, err
}

// Detach implements providers.Provider.
func (f *faulty) Detach(ctx context.Context, attachment providers.Handle) error {
	_, _, err := one(ctx, f, "Detach", providers.CapFiles, nothing(func() error { return f.inner.Detach(ctx, attachment) }))
	return err
}

// Changes implements providers.Provider.
func (f *faulty) Changes(ctx context.Context, request providers.ChangesRequest, each func([]string) error) error {
	return stream(ctx, f, "Changes", providers.CapChanges, each, func(_ *troubled, each func([]string) error) error {
		return f.inner.Changes(ctx, request, each)
	})
}

// DiscoverMachines implements providers.Provider.
func (f *faulty) DiscoverMachines(ctx context.Context, query providers.Query, each func(providers.Machine) error) error {
	return stream(ctx, f, "DiscoverMachines", providers.CapMachines, each, func(_ *troubled, each func(providers.Machine) error) error {
		return f.inner.DiscoverMachines(ctx, query, each)
	})
}

// CreateMachine implements providers.Provider.
func (f *faulty) CreateMachine(ctx context.Context, request providers.MachineRequest) (providers.Machine, error) {
	m, _, err := one(ctx, f, "CreateMachine", providers.CapMachines, func(*troubled) (providers.Machine, error) { return f.inner.CreateMachine(ctx, request) })
	return m, err
}

// DeleteMachine implements providers.Provider.
func (f *faulty) DeleteMachine(ctx context.Context, h providers.Handle) error {
	_, _, err := one(ctx, f, "DeleteMachine", providers.CapMachines, nothing(func() error { return f.inner.DeleteMachine(ctx, h) }))
	return err
}
