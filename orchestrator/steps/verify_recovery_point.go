package steps

import (
	"context"
	"encoding/json"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
)

// VerifyRecoveryPoint reads every content of the recovery point once, before anything is restored from
// it: damage is found while nothing has been touched.
type VerifyRecoveryPoint struct{}

// Check checks the manifest's signature.
func (s *VerifyRecoveryPoint) Check(ctx context.Context, run *orchestrator.Run) error {
	_, _, err := pointOf(ctx, run)
	return err
}

// Do reads.
func (s *VerifyRecoveryPoint) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	point, _, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	run.Progress.Total(0, int64(point.Files))
	if err := run.Repository.ReadThrough(ctx, point, run.Progress.Add); err != nil {
		if fault.Is(err, fault.Corrupt) {
			return nil, fault.Newf("verify recovery point", fault.Corrupt, point.ID, "nothing was restored: take an earlier point with --point, see muster points list: %w", err)
		}
		return nil, err
	}
	return json.Marshal(map[string]string{"point": point.ID})
}

// Verify has nothing to add.
func (s *VerifyRecoveryPoint) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Undo does nothing: Do changed nothing.
func (s *VerifyRecoveryPoint) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}
