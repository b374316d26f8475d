package steps

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// BackupDatabases captures database servers with their engines' own tools. Its items are the databases.
type BackupDatabases struct {
	// Databases are names or patterns of the Cluster document's databases; empty means all.
	Databases []string `yaml:"databases,omitempty"`
	// Mode is one of the engine's modes; empty is the engine's own choice.
	Mode string `yaml:"mode,omitempty"`
	// WithoutDigests leaves out the content of every table, as the engine computes it at the backup's instant:
	// it costs a read of everything, and verify-databases has nothing to compare without it.
	WithoutDigests bool `yaml:"withoutDigests,omitempty"`
}

// The files in a database's folder beside the engine's own.
const (
	databasePartsFile   = "parts.tsv"
	databaseDigestsFile = "digests.tsv"
	databaseLayerFile   = "database.yaml"
)

// Items are the names of the databases.
func (s *BackupDatabases) Items(_ context.Context, run *orchestrator.Run) ([]string, error) {
	chosen, err := chosenDatabases(run.Cluster, s.Databases)
	var names []string
	for _, d := range chosen {
		names = append(names, d.Name)
	}
	return names, err
}

// Check has each engine look for everything that would make its backup fail, or be less than it seems.
func (s *BackupDatabases) Check(ctx context.Context, run *orchestrator.Run) error {
	names, err := s.Items(ctx, run)
	if err != nil {
		return err
	}
	if len(names) == 0 && len(s.Databases) > 0 {
		return fault.Newf("check databases", fault.NotFound, strings.Join(s.Databases, ", "), "the Cluster document lists no such database")
	}
	if run.Item != "" {
		names = []string{run.Item}
	}
	var problems []error
	for _, name := range names {
		problems = append(problems, s.check(ctx, run, name))
	}
	return errors.Join(problems...)
}

func (s *BackupDatabases) check(ctx context.Context, run *orchestrator.Run, name string) error {
	o, err := s.open(ctx, run, name)
	if err != nil {
		return err
	}
	defer o.close()
	found, err := o.Check(ctx, s.Mode)
	if err != nil {
		return err
	}
	tell(run, name, found)
	return o.Refused("check database", found)
}

func (s *BackupDatabases) open(ctx context.Context, run *orchestrator.Run, name string) (*openDatabase, error) {
	d, err := findDatabase(run, name)
	if err != nil {
		return nil, err
	}
	engine, err := database.Find(d.Engine, run.Cluster.Spec.Engines)
	if err != nil {
		return nil, err
	}
	return connectDatabase(ctx, run, d, engine)
}

// Do captures one database.
func (s *BackupDatabases) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	o, err := s.open(ctx, run, run.Item)
	if err != nil {
		return nil, err
	}
	defer o.close()
	backup, err := o.Backup(ctx, database.BackupConfig{
		Mode: s.Mode, Store: run.Repository, Progress: run.Progress, Now: run.Now, Digests: !s.WithoutDigests,
	})
	if err != nil {
		return nil, err
	}
	layer, files, err := s.layer(ctx, run, o, backup)
	if err != nil {
		return nil, err
	}
	tree, err := run.Repository.PutTree(ctx, files)
	if err != nil {
		return nil, err
	}
	if err := run.Repository.Flush(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(databaseReceipt{Layer: layer, Tree: tree})
}

// layer describes a backup, and lists the files of its folder.
func (s *BackupDatabases) layer(ctx context.Context, run *orchestrator.Run, o *openDatabase, backup database.Backup) (repository.DatabaseLayer, []repository.File, error) {
	folder := repository.DatabasePath(run.Item)
	layer := repository.DatabaseLayer{
		Name: run.Item, Path: folder, Engine: o.Engine.Metadata.Name, Definition: o.Engine.Spec.Definition, Server: backup.Server,
		Mode: backup.Mode, PointInTime: backup.PointInTime, Taken: backup.Taken, Facts: backup.Facts, Scopes: backup.Scopes, Tables: len(backup.Digests),
	}
	var files []repository.File
	var parts strings.Builder
	for _, part := range backup.Parts {
		content := repository.Content{Path: folder + "/" + part.Path, Size: part.Object.Size, SHA256: part.Object.SHA256}
		layer.Parts = append(layer.Parts, repository.DatabasePart{Content: content, Phase: part.Phase, Args: part.Args})
		files = append(files, repository.File{Path: part.Path, Object: part.Object})
		fmt.Fprintln(&parts, part.Line())
	}
	put := func(name, text string) (repository.Content, error) {
		object, err := run.Repository.Put(ctx, run.Item+"/"+name, strings.NewReader(text))
		files = append(files, repository.File{Path: name, Object: object})
		return repository.Content{Path: folder + "/" + name, Size: object.Size, SHA256: object.SHA256}, err
	}
	if _, err := put(databasePartsFile, parts.String()); err != nil {
		return layer, nil, err
	}
	if len(backup.Digests) > 0 {
		content, err := put(databaseDigestsFile, digestsText(backup.Digests))
		if err != nil {
			return layer, nil, err
		}
		layer.Digests = &content
	}
	var err error
	if layer.Document, err = json.Marshal(o.Database); err != nil {
		return layer, nil, fault.New("describe database", fault.Internal, run.Item, err)
	}
	for _, own := range run.Cluster.Spec.Engines {
		if own.Metadata.Name == layer.Engine {
			layer.Definitions, err = json.Marshal(own)
		}
	}
	if err != nil {
		return layer, nil, fault.New("describe engine", fault.Internal, layer.Engine, err)
	}
	described, err := yaml.Marshal(layer)
	if err != nil {
		return layer, nil, fault.New("describe database", fault.Internal, run.Item, err)
	}
	_, err = put(databaseLayerFile, string(described))
	return layer, files, err
}

func digestsText(digests []database.Digest) string {
	var b bytes.Buffer
	for _, d := range digests {
		fmt.Fprintln(&b, d.Line())
	}
	return b.String()
}

// Verify opens what was stored.
func (s *BackupDatabases) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	return verifyTree(ctx, run, receipt)
}

// Undo does nothing: content that no point refers to is garbage for maintenance.
func (s *BackupDatabases) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the database.
func (s *BackupDatabases) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r databaseReceipt
	err := json.Unmarshal(receipt, &r)
	return orchestrator.Summary{Layer: "databases", Unit: "databases", Expected: 1, Done: 1, Bytes: r.Tree.Bytes}, err
}
