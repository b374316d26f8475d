package database_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
)

// TestTakenIsBeforeTheInstant: a transaction that was acknowledged before the time that a backup names is in it.
func TestTakenIsBeforeTheInstant(t *testing.T) {
	held := filepath.Join(t.TempDir(), "held")
	engine := plans.Engine{Metadata: plans.Metadata{Name: "own"}, Spec: plans.EngineSpec{
		Server: "echo 1", Mode: "logical",
		Modes: map[string]plans.EngineMode{"logical": {
			Parts: "part all 0 1", Backup: "echo all", Restore: "cat >/dev/null",
			Session: ": >" + held + "; echo ready; cat >/dev/null",
		}},
	}}
	s, err := database.NewServer(database.ServerConfig{
		Database: plans.Database{Name: "own", Engine: "own"}, Engine: engine, Place: shell.Runner{}, Mask: secret.NewMask(), Token: "t",
	})
	if err != nil {
		t.Fatal(err)
	}
	late := false
	now := func() time.Time {
		if _, err := os.Stat(held); err == nil {
			late = true
		}
		return time.Now()
	}
	backup, err := s.Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Progress: progress{}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if backup.Taken.IsZero() || late {
		t.Errorf("the time %s was read after the instant was held", backup.Taken)
	}
}
