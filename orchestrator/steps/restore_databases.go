package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// RestoreDatabases brings databases back with their engines' own tools. Its items are the databases.
type RestoreDatabases struct {
	// Databases are names or patterns of the recovery point's databases; empty means all.
	Databases []string `yaml:"databases,omitempty"`
	// OnExisting is refuse (the default): a target that holds data stays as it is, or replace.
	OnExisting OnExistingData `yaml:"onExisting,omitempty"`
	// Until rolls physical backups forward by the archived logs; without it, a database is as it was when it was
	// backed up. The base is the newest backup of the cluster's recovery points that is not after the target.
	Until database.Until `yaml:"until,omitempty"`
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
	Server string `json:"server"` // the version of the server that was captured
	Parts  int    `json:"parts"`
	Bytes  int64  `json:"bytes"`
	Base   string `json:"base"` // the recovery point that the backup is of
	Until  string `json:"until,omitempty"`
	// Started says that the server was stopped for the restore, and is started again.
	Started bool `json:"started,omitempty"`
}

// Items are the names of the databases.
func (s *RestoreDatabases) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	var names []string
	if !s.Until.IsZero() {
		for _, logs := range manifest.DatabaseLogs {
			names = append(names, logs.Name)
		}
	} else {
		for _, layer := range manifest.Databases {
			names = append(names, layer.Name)
		}
	}
	return chosenNames(names, s.Databases)
}

// Check looks at what can be known before the cluster is there: in a rebuild, the targets are looked at when
// their turn comes.
func (s *RestoreDatabases) Check(ctx context.Context, run *orchestrator.Run) error {
	if s.OnExisting != "" && s.OnExisting != RefuseExisting && s.OnExisting != ReplaceExisting {
		return fault.Newf("check onExisting", fault.Invalid, string(s.OnExisting), "want refuse or replace")
	}
	if n := s.Until.Count(); n > 1 {
		return fault.Newf("check until", fault.Invalid, run.Step, "want one of time, lsn, name and end")
	}
	names, err := s.Items(ctx, run)
	if err != nil {
		return err
	}
	if len(names) == 0 && (len(s.Databases) > 0 || !s.Until.IsZero()) {
		return fault.Newf("check databases", fault.NotFound, strings.Join(s.Databases, ", "), "the recovery point holds no such database, or, for a restore until a target, no logs of it")
	}
	var problems []error
	for _, name := range names {
		if run.Item == "" || run.Item == name {
			problems = append(problems, s.check(ctx, run, name))
		}
	}
	return errors.Join(problems...)
}

// check finds the base, and looks at the target where the cluster is there already.
func (s *RestoreDatabases) check(ctx context.Context, run *orchestrator.Run, name string) error {
	if run.Machines != nil {
		_, err := s.base(ctx, run, name, nil)
		return err
	}
	if checked, err := s.checkStop(ctx, run, name); checked || err != nil {
		return err
	}
	o, base, err := s.open(ctx, run, name)
	if err != nil {
		return err
	}
	defer o.close()
	problems, err := o.CheckTarget(ctx, s.config(run, base))
	if err != nil {
		return err
	}
	return o.Refused("check target", problems)
}

// checkStop looks whether a server can be stopped that has to be; what it holds is looked at when it is.
func (s *RestoreDatabases) checkStop(ctx context.Context, run *orchestrator.Run, name string) (checked bool, err error) {
	base, err := s.base(ctx, run, name, nil)
	if err != nil {
		return false, err
	}
	d, engine, stop, err := databaseTarget(run, base.layer)
	if err != nil || !stop {
		return false, err
	}
	if err := s.mayEmpty(d, engine.Spec.Modes[base.layer.Mode]); err != nil {
		return false, err
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return false, err
	}
	defer client.Close()
	return true, client.CheckStop(ctx, targetQuery(d.Pod))
}

// mayEmpty refuses a Patroni cluster whose other members can't, or are not to, be emptied.
func (s *RestoreDatabases) mayEmpty(d plans.Database, mode plans.EngineMode) error {
	switch {
	case d.Pod.Patroni == "":
		return nil
	case mode.Empty == "":
		return fault.Newf("check target", fault.Unsupported, d.Name, "pod.patroni: its engine has no script empty in this mode")
	case s.OnExisting != ReplaceExisting:
		return fault.Newf("check target", fault.Exists, d.Name, "the volumes of its other members are emptied for the restore: that wants onExisting: replace")
	}
	return nil
}

// databaseTarget is the entry and the engine of a restore, and whether the server's pod has to be stopped for it.
func databaseTarget(run *orchestrator.Run, layer repository.DatabaseLayer) (d plans.Database, engine plans.Engine, stop bool, err error) {
	if engine, err = engineOf(run, layer); err == nil {
		d, err = capturedDatabase(run, layer)
	}
	return d, engine, d.Pod != nil && engine.Spec.Modes[layer.Mode].Stopped, err
}

// databaseBase is the backup that a restore begins with, and the logs that roll it forward.
type databaseBase struct {
	point repository.Point
	layer repository.DatabaseLayer
	logs  sealedLogs
}

// open reaches the target of a restore, and finds the base.
func (s *RestoreDatabases) open(ctx context.Context, run *orchestrator.Run, name string) (*openDatabase, databaseBase, error) {
	base, err := s.base(ctx, run, name, nil)
	if err != nil {
		return nil, base, err
	}
	o, err := s.openTarget(ctx, run, base.layer)
	if err != nil || s.Until.IsZero() {
		return o, base, err
	}
	located := func(ctx context.Context) (string, error) { return o.Locate(ctx, s.Until, base.logs.logs()) }
	if base, err = s.base(ctx, run, name, located); err != nil {
		err = o.abandon(ctx, err)
	}
	return o, base, err
}

// base is the run's recovery point where nothing is rolled forward. Else it is the newest physical backup, in a
// point that is not newer than the run's, that had ended before the target; located, which may be nil, tells the
// target's position.
func (s *RestoreDatabases) base(ctx context.Context, run *orchestrator.Run, name string, located func(context.Context) (string, error)) (databaseBase, error) {
	point, manifest, err := pointOf(ctx, run)
	if err != nil {
		return databaseBase{}, err
	}
	if s.Until.IsZero() {
		layer, err := databaseLayer(manifest, name)
		return databaseBase{point: point, layer: layer}, err
	}
	base := databaseBase{}
	for _, layer := range manifest.DatabaseLogs {
		if layer.Name == name {
			base.logs = sealedLogs{point, layer}
		}
	}
	position := ""
	if located != nil {
		if position, err = located(ctx); err != nil {
			return base, err
		}
	}
	until, err := s.untilTime()
	if err != nil {
		return base, err
	}
	err = eachManifest(ctx, run, func(candidate repository.Point, manifest repository.Manifest) bool {
		if candidate.Instant.After(point.Instant) {
			return true
		}
		for _, layer := range manifest.Databases {
			if layer.Name == name && s.fits(layer, position, until) {
				base.point, base.layer = candidate, layer
				return false
			}
		}
		return true
	})
	if err == nil && base.layer.Name == "" {
		err = fault.Newf("find the base", fault.NotFound, name, "no recovery point up to %s holds a physical backup of it that had ended before the target", point.ID)
	}
	return base, err
}

func (s *RestoreDatabases) untilTime() (time.Time, error) {
	if s.Until.Time == "" {
		return time.Time{}, nil
	}
	until, err := time.Parse(time.RFC3339, s.Until.Time)
	if err != nil {
		return until, fault.Newf("check until", fault.Invalid, s.Until.Time, "want RFC 3339, as 2026-01-02T15:04:05Z")
	}
	return until, nil
}

// fits reports whether a backup can be rolled forward to the target.
func (s *RestoreDatabases) fits(layer repository.DatabaseLayer, position string, until time.Time) bool {
	if layer.Facts["from"] == "" || layer.Facts["to"] == "" || layer.Facts["timeEnd"] == "" {
		return false // logs do not go on from it
	}
	if position != "" && layer.Facts["to"] > position {
		return false
	}
	ended, err := time.Parse(time.RFC3339, layer.Facts["timeEnd"])
	return until.IsZero() || err == nil && !ended.After(until)
}

// openCaptured reaches a captured database's server as it runs.
func openCaptured(ctx context.Context, run *orchestrator.Run, layer repository.DatabaseLayer) (*openDatabase, error) {
	d, engine, _, err := databaseTarget(run, layer)
	if err != nil {
		return nil, err
	}
	return connectDatabaseAt(ctx, run, d, engine, asTarget)
}

// openTarget reaches the target of a restore, and stops what has to be stopped.
func (s *RestoreDatabases) openTarget(ctx context.Context, run *orchestrator.Run, layer repository.DatabaseLayer) (*openDatabase, error) {
	d, engine, stop, err := databaseTarget(run, layer)
	if err != nil {
		return nil, err
	}
	find := asTarget
	if stop {
		find = stopped
		err = s.mayEmpty(d, engine.Spec.Modes[layer.Mode])
	}
	if err != nil {
		return nil, err
	}
	return connectDatabaseAt(ctx, run, d, engine, find)
}

func (s *RestoreDatabases) config(run *orchestrator.Run, base databaseBase) database.RestoreConfig {
	folder := base.layer.Path + "/"
	config := database.RestoreConfig{
		Mode: base.layer.Mode, Facts: base.layer.Facts, Replace: s.OnExisting == ReplaceExisting, Progress: run.Progress,
		Until: s.Until, Logs: base.logs.logs(),
		Open: func(ctx context.Context, part database.Part) (io.ReadCloser, error) {
			return run.Repository.OpenPath(ctx, base.point, folder+part.Path)
		},
		OpenLog: func(ctx context.Context, log database.Log) (io.ReadCloser, error) {
			return run.Repository.OpenPath(ctx, base.logs.point, base.logs.layer.Path+"/"+log.Name)
		},
	}
	for _, part := range base.layer.Parts {
		config.Parts = append(config.Parts, database.Part{Path: strings.TrimPrefix(part.Path, folder), Phase: part.Phase, Bytes: part.Size, Args: part.Args})
	}
	return config
}

// Do restores one database.
func (s *RestoreDatabases) Do(ctx context.Context, run *orchestrator.Run, prior orchestrator.Receipt) (orchestrator.Receipt, error) {
	if len(prior) > 0 {
		return prior, nil // what was written since is not to be lost
	}
	o, base, err := s.open(ctx, run, run.Item)
	if err != nil {
		return nil, err
	}
	defer o.close()
	r := restoredDatabase{Parts: len(base.layer.Parts), Server: base.layer.Server, Base: base.point.ID, Until: s.Until.String()}
	if err := restoreStopped(ctx, o, s.config(run, base)); err != nil {
		return nil, err
	}
	r.Started = o.standIn != nil
	for _, part := range base.layer.Parts {
		r.Bytes += part.Size
	}
	return json.Marshal(r)
}

// restoreStopped restores, and starts the server again that was stopped for it: also when nothing was changed yet.
// One whose data is half restored stays stopped.
func restoreStopped(ctx context.Context, o *openDatabase, config database.RestoreConfig) error {
	if o.standIn == nil {
		return o.Restore(ctx, config)
	}
	guarded, end := o.standIn.Guard(ctx)
	defer end()
	begun := false
	config.Begun = func() { begun = true }
	if err := o.Restore(guarded, config); err != nil && begun {
		return fmt.Errorf("%w; the server stays stopped, its data is restored in part: resume the run", err)
	} else if err != nil {
		return errors.Join(err, o.standIn.Resume(ctx))
	}
	if o.Database.Pod.Patroni == "" {
		end() // before the workload is scaled
		return o.standIn.Resume(ctx)
	}
	empty := func(ctx context.Context) error { return o.Empty(ctx, config.Mode) }
	if err := o.standIn.EachOther(guarded, empty); err != nil {
		return fmt.Errorf("%w; the server stays stopped, its members are restored in part: resume the run", err)
	}
	end()
	return o.standIn.ResumeFirst(ctx)
}

// startsWithin bounds the wait for a server to be ready that was stopped for a restore.
const startsWithin = 10 * time.Minute

// Verify waits until a server is ready that was stopped for the restore; the other members of a Patroni cluster start
// then. Others have nothing to look at: what a server holds is for verify-databases.
func (s *RestoreDatabases) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r restoredDatabase
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	if !r.Started {
		return nil
	}
	base, err := s.base(ctx, run, run.Item, nil)
	if err != nil {
		return err
	}
	d, err := capturedDatabase(run, base.layer)
	if err != nil {
		return err
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	waiting, cancel := context.WithTimeout(ctx, startsWithin)
	defer cancel()
	run.Progress.Status("waiting until " + run.Item + " is ready")
	err = client.AwaitPod(waiting, targetQuery(d.Pod))
	if err != nil || d.Pod.Patroni == "" {
		return err
	}
	return client.ResumeOthers(ctx, targetQuery(d.Pod))
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
