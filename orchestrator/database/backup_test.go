package database_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
)

// tokenOf is the task of a test at a server: the same in every try, and nobody else's.
func tokenOf(test string, settings map[string]string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(test+fmt.Sprint(settings))))[:32]
}

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
		Database: plans.Database{Name: "own", Engine: "own"}, Engine: engine, Place: shell.Runner{}, Mask: secret.NewMask(), Token: rand.Text(),
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
