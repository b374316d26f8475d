package steps

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// sealVolumes gathers what capture-volumes and copy-snapshots left. A volume that two steps captured is
// refused: a recovery point holds each once.
func sealVolumes(source sealSource, into *repository.Manifest) ([]repository.Subtree, error) {
	copies, err := sealCopies(source)
	if err != nil {
		return nil, err
	}
	var subtrees []repository.Subtree
	seen := map[string]bool{}
	receipts := source.ItemReceipts("capture-volumes")
	for _, group := range slices.Sorted(maps.Keys(receipts)) {
		var receipt volumesReceipt
		if err := json.Unmarshal(receipts[group], &receipt); err != nil {
			return nil, fault.New(sealing, fault.Corrupt, "receipt of capture-volumes "+group, err)
		}
		into.VolumesLeft = append(into.VolumesLeft, receipt.Left...)
		into.CloudMachines = append(into.CloudMachines, receipt.Machines...)
		for _, captured := range receipt.Volumes {
			layer := captured.Layer
			if seen[layer.Path] {
				return nil, fault.Newf(sealing, fault.Invalid, layer.ID, "two groups have captured this volume: let one step of the plan choose it")
			}
			seen[layer.Path] = true
			layer.Copies = copies[layer.Path]
			into.Volumes = append(into.Volumes, layer)
			subtrees = append(subtrees, repository.Subtree{Path: layer.Path, Tree: captured.Tree})
		}
	}
	return subtrees, nil
}

// sealCopies are the snapshots that were copied elsewhere, by volume.
func sealCopies(source sealSource) (map[string][]repository.SnapshotCopy, error) {
	copies := map[string][]repository.SnapshotCopy{}
	receipts := source.ItemReceipts("copy-snapshots")
	for _, id := range slices.Sorted(maps.Keys(receipts)) {
		encoded, err := copyOf(receipts[id])
		if err != nil {
			return nil, fault.New(sealing, fault.Corrupt, "receipt of copy-snapshots "+id, err)
		}
		folder := "volumes/" + id
		copies[folder] = append(copies[folder], encoded)
	}
	return copies, nil
}

func copyOf(receipt orchestrator.Receipt) (repository.SnapshotCopy, error) {
	var copied copiedSnapshot
	if err := json.Unmarshal(receipt, &copied); err != nil {
		return repository.SnapshotCopy{}, err
	}
	encoded, err := json.Marshal(copied.Snapshot)
	return repository.SnapshotCopy{Region: copied.Snapshot.Region, Snapshot: encoded}, err
}
