package steps

import (
	"context"
	"crypto/rand"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/plans"
)

// CheckDatabase looks for everything that would make a backup of one of the cluster's databases fail, or be less
// than it seems: what BackupDatabases looks for before a run. It also gives the mode, which is the engine's own
// choice where mode is empty. The error says that it could not look.
func CheckDatabase(ctx context.Context, cluster *plans.Cluster, name, mode string) (string, []database.Problem, error) {
	o, err := (&BackupDatabases{}).open(ctx, &orchestrator.Run{ID: rand.Text(), Cluster: cluster}, name) // no other is a try of the same
	if err != nil {
		return mode, nil, err
	}
	defer o.close()
	if mode, _, err = o.Mode(mode); err != nil {
		return mode, nil, err
	}
	problems, err := o.Check(ctx, mode)
	return mode, problems, err
}
