package steps

import (
	"context"
	"encoding/json"

	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// machines describes the machines that the group's volumes are attached to, where machines make the
// groups and the provider knows them.
func (g *volumeGroup) machines(ctx context.Context) ([]repository.CloudMachine, error) {
	if g.GroupBy != volume.ByMachine {
		return nil, nil
	}
	var described []repository.CloudMachine
	seen := map[string]bool{}
	for _, m := range g.members {
		key := m.Storage + "\x00" + m.Volume.Machine
		if m.Volume.Machine == "" || seen[key] || !m.info.Can(providers.CapMachines) {
			continue
		}
		seen[key] = true
		err := m.provider.DiscoverMachines(ctx, providers.Query{IDs: []string{m.Volume.Machine}}, func(found providers.Machine) error {
			encoded, err := json.Marshal(found)
			described = append(described, repository.CloudMachine{ID: found.ID, Name: found.Name, Storage: m.Storage, Provider: m.info.Name, Machine: encoded})
			return err
		})
		if err != nil {
			return nil, fault.New("describe machine", fault.KindOf(err), m.Volume.Machine, err)
		}
	}
	return described, nil
}
