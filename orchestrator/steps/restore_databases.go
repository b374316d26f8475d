package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// RestoreDatabases brings databases back with their engines' own tools. Its items are the databases.
type RestoreDatabases struct {
	// Databases are names or patterns of the recovery point's databases; empty means all.
	Databases []string `yaml:"databases,omitempty"`
	// OnExisting is refuse (the default): a target that holds data stays as it is, or replace.
	OnExisting OnExistingData `yaml:"onExisting,omitempty"`
}

// OnExistingData says what becomes of data that a target holds already.
type OnExistingData string

// The choices.
const (
	RefuseExisting  OnExistingData = "refuse"
	ReplaceExisting OnExistingData = "replace"
)

// restoredDatabase is what restore-databases leaves for each database.
type restoredDatabase struct {
	Server string `json:"server"` // the target's version
	Parts  int    `json:"parts"`
	Bytes  int64  `json:"bytes"`
}

// Items are the names of the databases.
func (s *RestoreDatabases) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	layers, err := databaseLayers(manifest, s.Databases)
	var names []string
	for _, layer := range layers {
		names = append(names, layer.Name)
	}
	return names, err
}

// Check looks at what can be known before the cluster is there: in a rebuild, the targets are looked at when
// their turn comes.
func (s *RestoreDatabases) Check(ctx context.Context, run *orchestrator.Run) error {
	if s.OnExisting != "" && s.OnExisting != RefuseExisting && s.OnExisting != ReplaceExisting {
		return fault.Newf("check onExisting", fault.Invalid, string(s.OnExisting), "want refuse or replace")
	}
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return err
	}
	layers, err := databaseLayers(manifest, s.Databases)
	if err != nil {
		return err
	}
	if len(layers) == 0 && len(s.Databases) > 0 {
		return fault.Newf("check databases", fault.NotFound, strings.Join(s.Databases, ", "), "the recovery point holds no such database")
	}
	var problems []error
	for _, layer := range layers {
		if _, err := engineOf(run, layer); err != nil {
			problems = append(problems, err)
			continue
		}
		if run.Machines == nil && (run.Item == "" || run.Item == layer.Name) {
			problems = append(problems, s.check(ctx, run, layer))
		}
	}
	return errors.Join(problems...)
}

func (s *RestoreDatabases) check(ctx context.Context, run *orchestrator.Run, layer repository.DatabaseLayer) error {
	o, err := openCaptured(ctx, run, layer)
	if err != nil {
		return err
	}
	defer o.close()
	problems, err := o.CheckTarget(ctx, s.config(run, repository.Point{}, layer))
	if err != nil {
		return err
	}
	return o.Refused("check target", problems)
}

func openCaptured(ctx context.Context, run *orchestrator.Run, layer repository.DatabaseLayer) (*openDatabase, error) {
	engine, err := engineOf(run, layer)
	if err != nil {
		return nil, err
	}
	d, err := capturedDatabase(run, layer)
	if err != nil {
		return nil, err
	}
	return connectDatabase(ctx, run, d, engine)
}

func (s *RestoreDatabases) config(run *orchestrator.Run, point repository.Point, layer repository.DatabaseLayer) database.RestoreConfig {
	folder := repository.DatabasePath(layer.Name) + "/"
	config := database.RestoreConfig{
		Mode: layer.Mode, Facts: layer.Facts, Replace: s.OnExisting == ReplaceExisting, Progress: run.Progress,
		Open: func(ctx context.Context, part database.Part) (io.ReadCloser, error) {
			return run.Repository.OpenPath(ctx, point, folder+part.Path)
		},
	}
	for _, part := range layer.Parts {
		config.Parts = append(config.Parts, database.Part{Path: strings.TrimPrefix(part.Path, folder), Phase: part.Phase, Bytes: part.Size, Args: part.Args})
	}
	return config
}

// Do restores one database.
func (s *RestoreDatabases) Do(ctx context.Context, run *orchestrator.Run, prior orchestrator.Receipt) (orchestrator.Receipt, error) {
	if len(prior) > 0 {
		return prior, nil // what was written since is not to be lost
	}
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
	r := restoredDatabase{Parts: len(layer.Parts)}
	if r.Server, err = o.Version(ctx); err != nil {
		return nil, err
	}
	if err := o.Restore(ctx, s.config(run, point, layer)); err != nil {
		return nil, err
	}
	for _, part := range layer.Parts {
		r.Bytes += part.Size
	}
	return json.Marshal(r)
}

// Verify asks the server whether it is there; what it holds is for verify-databases.
func (s *RestoreDatabases) Verify(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) error {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return err
	}
	layer, err := databaseLayer(manifest, run.Item)
	if err != nil {
		return err
	}
	o, err := openCaptured(ctx, run, layer)
	if err != nil {
		return err
	}
	defer o.close()
	_, err = o.Version(ctx)
	return err
}

// Undo leaves the data: a restore that replaced something can't bring it back, and data is never deleted here.
func (s *RestoreDatabases) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Left implements orchestrator.Leaver.
func (s *RestoreDatabases) Left(receipt orchestrator.Receipt) string {
	var r restoredDatabase
	_ = json.Unmarshal(receipt, &r) // an unreadable receipt names nothing
	return fmt.Sprintf("the restored data, %d bytes; drop it by hand", r.Bytes)
}

// Summarize counts the database.
func (s *RestoreDatabases) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r restoredDatabase
	err := json.Unmarshal(receipt, &r)
	return orchestrator.Summary{Layer: "databases", Unit: "databases", Expected: 1, Done: 1, Bytes: r.Bytes}, err
}
