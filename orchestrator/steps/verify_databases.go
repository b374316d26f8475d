package steps

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// VerifyDatabases compares restored databases with the recovery point: the content of every table, as the
// engine computes it on both sides, and what the plan's own queries say. Its items are the databases.
type VerifyDatabases struct {
	// Databases are names or patterns of the recovery point's databases; empty means all.
	Databases []string `yaml:"databases,omitempty"`
	// Ignore are names of tables ("schema.table") whose content may have changed since.
	Ignore []string `yaml:"ignore,omitempty"`
	// Invariants are queries with conditions on their rows.
	Invariants []Invariant `yaml:"invariants,omitempty"`
}

// Invariant is something that always holds in a database.
type Invariant struct {
	Database string `yaml:"database"`
	Scope    string `yaml:"scope,omitempty"` // the server's database that is asked
	Query    string `yaml:"query"`
	// Expect is CEL over rows, a list of objects: `rows[0].sum == 1000000`.
	Expect string `yaml:"expect"`
}

// verifiedDatabase is what verify-databases leaves for each database.
type verifiedDatabase struct {
	Tables     int      `json:"tables"` // compared
	Differ     []string `json:"differ,omitempty"`
	Invariants int      `json:"invariants"`
	Compared   bool     `json:"compared"` // the point holds digests
}

// Items are the names of the databases.
func (s *VerifyDatabases) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	return (&RestoreDatabases{Databases: s.Databases}).Items(ctx, run)
}

// Check compiles the conditions.
func (s *VerifyDatabases) Check(ctx context.Context, run *orchestrator.Run) error {
	if _, err := s.Items(ctx, run); err != nil {
		return err
	}
	return checkInvariants(run, s.Invariants)
}

func checkInvariants(run *orchestrator.Run, invariants []Invariant) error {
	var problems []error
	for _, i := range invariants {
		if i.Query == "" || i.Database == "" {
			problems = append(problems, fault.Newf("check invariants", fault.Invalid, run.Step, "an invariant wants database, query and expect"))
			continue
		}
		_, err := i.condition()
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (i Invariant) condition() (*plans.Condition, error) {
	return plans.NewCondition(i.Expect, "rows")
}

// Do compares one database. Differences are the step's failure.
func (s *VerifyDatabases) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	point, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	layer, err := databaseLayer(manifest, run.Item)
	if err != nil {
		return nil, err
	}
	o, err := openCaptured(ctx, run, layer)
	if err != nil {
		return nil, err
	}
	defer o.close()
	r, err := s.prove(ctx, run, point, layer, o)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// prove compares, and asks the plan's queries.
func (s *VerifyDatabases) prove(ctx context.Context, run *orchestrator.Run, point repository.Point, layer repository.DatabaseLayer, o *openDatabase) (verifiedDatabase, error) {
	var r verifiedDatabase
	if err := s.compare(ctx, run, point, layer, o, &r); err != nil {
		return r, err
	}
	for _, i := range s.Invariants {
		if i.Database != run.Item {
			continue
		}
		if err := i.holds(ctx, o); err != nil {
			return r, err
		}
		r.Invariants++
	}
	if !r.Compared && r.Invariants == 0 {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Changed, Layer: "databases", Subject: run.Item, Text: "nothing was compared: the backup was made without digests, and the plan has no invariants"})
	}
	return r, nil
}

func (s *VerifyDatabases) compare(ctx context.Context, run *orchestrator.Run, point repository.Point, layer repository.DatabaseLayer, o *openDatabase, r *verifiedDatabase) error {
	if layer.Digests == nil {
		return nil
	}
	content, err := run.Repository.OpenPath(ctx, point, layer.Digests.Path)
	if err != nil {
		return err
	}
	defer content.Close() // it was only read
	raw, err := io.ReadAll(io.LimitReader(content, layer.Digests.Size))
	if err != nil {
		return err
	}
	recorded, err := database.ReadDigests(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	found, err := o.Digests(ctx, layer.Scopes, nil)
	if err != nil {
		return err
	}
	r.Compared, r.Tables = true, len(recorded)
	r.Differ = database.Differences(recorded, found, s.Ignore)
	if len(r.Differ) > 0 {
		shown := r.Differ[:min(len(r.Differ), 10)]
		return fault.Newf("verify database", fault.Corrupt, run.Item, "%d of %d tables are not as they were: %s", len(r.Differ), len(recorded), strings.Join(shown, "; "))
	}
	return nil
}

// holds asks the database.
func (i Invariant) holds(ctx context.Context, o *openDatabase) error {
	condition, err := i.condition()
	if err != nil {
		return err
	}
	rows, err := o.Query(ctx, i.Scope, i.Query)
	if err != nil {
		return err
	}
	held, err := condition.Holds(ctx, map[string]any{"rows": rows})
	if err != nil {
		return err
	}
	if !held {
		text, _ := json.Marshal(rows) // rows came as JSON
		return fault.Newf("verify database", fault.Corrupt, i.Database, "%s does not hold: the query gives %.300s", i.Expect, text)
	}
	return nil
}

// Verify has nothing to look at again.
func (s *VerifyDatabases) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Undo has nothing to take back.
func (s *VerifyDatabases) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the tables.
func (s *VerifyDatabases) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r verifiedDatabase
	err := json.Unmarshal(receipt, &r)
	out := orchestrator.Summary{Layer: "databases compared", Unit: "tables", Expected: int64(r.Tables), Done: int64(r.Tables - len(r.Differ))}
	if r.Invariants > 0 {
		out.Text = fmt.Sprintf("%d invariants hold", r.Invariants)
	}
	return out, err
}
