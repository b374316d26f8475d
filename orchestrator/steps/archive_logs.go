package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// ArchiveLogs stores what has come to databases' logs of changes since the newest recovery point, so that a
// physical backup can be rolled forward to any moment. Its items are the databases.
//
// The server keeps its log until a recovery point holds it: each pass lets go of what the point before has. A
// pass that dies, and one whose point is never sealed, loses nothing.
type ArchiveLogs struct {
	// Databases are names or patterns of the Cluster document's databases; empty means all.
	Databases []string `yaml:"databases,omitempty"`
	// OnGap is report (the default): the finding stands in the report and a new stretch begins, back-up: besides, a
	// new physical backup is made for it, or fail.
	OnGap OnGap `yaml:"onGap,omitempty"`
}

// OnGap says what happens when the log between the newest recovery point and the server's oldest file is gone.
type OnGap string

// The reactions to a gap.
const (
	GapReport OnGap = "report"
	GapBackUp OnGap = "back-up"
	GapFail   OnGap = "fail"
)

// logsReceipt is what archive-logs leaves for each database.
type logsReceipt struct {
	Layer repository.DatabaseLogsLayer `json:"layer"`
	Tree  repository.Tree              `json:"tree"` // database-logs/<name>
	New   int                          `json:"new"`
	// Gap says what is missing before the new files; empty when nothing is.
	Gap string `json:"gap"`
	// Base is the physical backup that was made because of it.
	Base *databaseReceipt `json:"base,omitempty"`
}

// baseMode is the mode of backups that logs roll forward.
const baseMode = "physical"

// Items are the names of the databases.
func (s *ArchiveLogs) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	return (&BackupDatabases{Databases: s.Databases}).Items(ctx, run)
}

// Check wants engines that know logs, and databases that answer.
func (s *ArchiveLogs) Check(ctx context.Context, run *orchestrator.Run) error {
	if !slices.Contains([]OnGap{"", GapReport, GapBackUp, GapFail}, s.OnGap) {
		return fault.Newf("check onGap", fault.Invalid, string(s.OnGap), "want report, back-up or fail")
	}
	names, err := s.Items(ctx, run)
	if err != nil {
		return err
	}
	if len(names) == 0 {
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

func (s *ArchiveLogs) check(ctx context.Context, run *orchestrator.Run, name string) error {
	o, err := (&BackupDatabases{}).open(ctx, run, name)
	if err != nil {
		return err
	}
	defer o.close()
	if o.Engine.Spec.Logs == nil {
		return fault.Newf("check database", fault.Unsupported, name, "engine %s knows no logs", o.Engine.Metadata.Name)
	}
	_, err = o.Version(ctx)
	return err
}

// Do makes one pass.
func (s *ArchiveLogs) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	o, err := (&BackupDatabases{}).open(ctx, run, run.Item)
	if err != nil {
		return nil, err
	}
	defer o.close()
	before, err := logsBefore(ctx, run, run.Item)
	if err != nil {
		return nil, err
	}
	needed, err := neededFrom(ctx, run, run.Item)
	if err != nil {
		return nil, err
	}
	taken := run.Now().UTC()
	more, err := o.ArchiveLogs(ctx, database.ArchiveConfig{Sealed: before.end(), Store: run.Repository, Progress: run.Progress})
	if err != nil {
		return nil, err
	}
	r := logsReceipt{Layer: repository.DatabaseLogsLayer{Name: run.Item, Path: repository.DatabaseLogsPath(run.Item), Engine: o.Engine.Metadata.Name, Taken: taken}}
	if r.Gap, err = s.gap(run, before, more); err != nil {
		return nil, err
	}
	if r.Gap != "" && s.OnGap == GapBackUp {
		if r.Base, err = newBase(ctx, run); err != nil {
			return nil, err
		}
	}
	kept := before.from(needed)
	files, err := kept.files(ctx, run)
	if err != nil {
		return nil, err
	}
	r.Layer.Logs = kept.layer.Logs
	for _, log := range more {
		if before.holds(log.Name) {
			continue
		}
		r.New++
		content := repository.Content{Path: r.Layer.Path + "/" + log.Name, Size: log.Object.Size, SHA256: log.Object.SHA256}
		r.Layer.Logs = append(r.Layer.Logs, repository.DatabaseLog{Content: content, From: log.From, To: log.To})
		files = append(files, repository.File{Path: log.Name, Object: log.Object})
	}
	if r.Tree, err = run.Repository.PutTree(ctx, files); err != nil {
		return nil, err
	}
	if err := run.Repository.Flush(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// gap tells what is missing between the newest recovery point and the first new file.
func (s *ArchiveLogs) gap(run *orchestrator.Run, before sealedLogs, more []database.StoredLog) (string, error) {
	logs := make([]database.Log, 0, len(more))
	for _, log := range more {
		logs = append(logs, log.Log)
	}
	from, to, found := database.Gap(before.end(), logs)
	if !found {
		return "", nil
	}
	text := fmt.Sprintf("the log between %s and %s is gone from the server: no backup before it can be rolled forward past it", from, to)
	if s.OnGap == GapBackUp {
		text += "; a new physical backup begins a new stretch"
	} else {
		text += "; make a new physical backup"
	}
	if s.OnGap == GapFail {
		return "", fault.Newf("archive logs", fault.NotFound, run.Item, "%s", text)
	}
	run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Lost, Layer: "databases", Subject: run.Item, Text: text})
	return text, nil
}

// newBase makes a physical backup of the item.
func newBase(ctx context.Context, run *orchestrator.Run) (*databaseReceipt, error) {
	raw, err := (&BackupDatabases{Mode: baseMode}).Do(ctx, run, nil)
	if err != nil {
		return nil, err
	}
	var base databaseReceipt
	return &base, json.Unmarshal(raw, &base)
}

// sealedLogs are a database's logs in the newest recovery point that has any.
type sealedLogs struct {
	point repository.Point
	layer repository.DatabaseLogsLayer
}

// logsBefore finds them.
func logsBefore(ctx context.Context, run *orchestrator.Run, name string) (sealedLogs, error) {
	var found sealedLogs
	err := eachManifest(ctx, run, func(point repository.Point, manifest repository.Manifest) bool {
		for _, layer := range manifest.DatabaseLogs {
			if layer.Name == name {
				found = sealedLogs{point, layer}
				return false
			}
		}
		return true
	})
	return found, err
}

// eachManifest goes through the recovery points of the run's cluster, newest first, until it is told to stop.
func eachManifest(ctx context.Context, run *orchestrator.Run, each func(repository.Point, repository.Manifest) bool) error {
	points, err := run.Repository.Points(ctx)
	if err != nil {
		return err
	}
	of := ""
	if run.Point != "" {
		point, err := run.Repository.Point(ctx, run.Point)
		if err != nil {
			return err
		}
		of = point.Cluster
	} else if run.Cluster != nil {
		of = run.Cluster.Metadata.Name
	}
	for _, point := range points {
		if point.Cluster != of {
			continue
		}
		manifest, err := run.Repository.Manifest(ctx, point)
		if err != nil {
			return err
		}
		if !each(point, manifest) {
			return nil
		}
	}
	return nil
}

// neededFrom is the position at which the oldest backup of the database begins that logs can roll forward, empty
// when there is none.
func neededFrom(ctx context.Context, run *orchestrator.Run, name string) (string, error) {
	oldest := ""
	err := eachManifest(ctx, run, func(_ repository.Point, manifest repository.Manifest) bool {
		for _, layer := range manifest.Databases {
			if from := layer.Facts["from"]; layer.Name == name && layer.Facts["to"] != "" && (oldest == "" || from < oldest) {
				oldest = from
			}
		}
		return true
	})
	return oldest, err
}

// from leaves out the files that no backup needs any more.
func (l sealedLogs) from(needed string) sealedLogs {
	var kept []repository.DatabaseLog
	for _, log := range l.layer.Logs {
		if log.To == "" || log.To > needed {
			kept = append(kept, log)
		}
	}
	l.layer.Logs = kept
	return l
}

// end is the position up to which the log is sealed, empty when nothing is.
func (l sealedLogs) end() string {
	end := ""
	for _, log := range l.layer.Logs {
		end = max(end, log.To)
	}
	return end
}

func (l sealedLogs) holds(name string) bool {
	for _, log := range l.layer.Logs {
		if path.Base(log.Path) == name {
			return true
		}
	}
	return false
}

// files are the sealed logs as files of another tree: what they hold is not stored again.
func (l sealedLogs) files(ctx context.Context, run *orchestrator.Run) ([]repository.File, error) {
	var files []repository.File
	for _, log := range l.layer.Logs {
		object, err := run.Repository.Content(ctx, l.point, log.Content)
		if err != nil {
			return nil, err
		}
		files = append(files, repository.File{Path: path.Base(log.Path), Object: object})
	}
	return files, nil
}

// logs are the sealed logs as a restore reads them.
func (l sealedLogs) logs() []database.Log {
	var logs []database.Log
	for _, log := range l.layer.Logs {
		logs = append(logs, database.Log{Name: path.Base(log.Path), Bytes: log.Size, From: log.From, To: log.To})
	}
	return logs
}

// Verify opens what was stored.
func (s *ArchiveLogs) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	return verifyTree(ctx, run, receipt)
}

// Undo does nothing: the server still keeps what no recovery point holds.
func (s *ArchiveLogs) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the new files.
func (s *ArchiveLogs) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r logsReceipt
	err := json.Unmarshal(receipt, &r)
	return orchestrator.Summary{
		Layer: "database logs", Unit: "files", Expected: int64(r.New), Done: int64(r.New), Text: fmt.Sprintf("%d kept in all", len(r.Layer.Logs)),
	}, err
}
