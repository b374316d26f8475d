package steps

import (
	"context"
	"encoding/json"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// verifyTree opens the tree that a capture step's receipt names.
func verifyTree(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r struct {
		Tree repository.Tree `json:"tree"`
	}
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	tree, err := run.Repository.Open(ctx, r.Tree.ID)
	if err != nil {
		return err
	}
	return tree.Close()
}
