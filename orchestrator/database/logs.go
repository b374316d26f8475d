package database

import (
	"context"
	"strconv"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// StoredLog is a file of the log with its content.
type StoredLog struct {
	Log
	Object repository.Object
}

// ArchiveConfig says which files of the log are archived, and where to.
type ArchiveConfig struct {
	// Sealed is the position up to which the log is safe in recovery points: the server need not keep it. It is
	// empty when nothing is.
	Sealed   string
	Store    Store
	Progress Progress
}

// ArchiveLogs stores every file of the server's log that ends after config.Sealed, the present one completed
// before. The server keeps them until a later call says that they are sealed: whatever dies, none is lost.
// What it returns may begin after config.Sealed: see Gap.
func (s *Server) ArchiveLogs(ctx context.Context, config ArchiveConfig) ([]StoredLog, error) {
	logs := s.Engine.Spec.Logs
	if logs == nil {
		return nil, fault.Newf("archive logs", fault.Unsupported, s.Database.Name, "engine %s knows no logs", s.Engine.Metadata.Name)
	}
	prepared, err := s.ask(ctx, call{op: "prepare the archiving of logs", script: logs.Prepare})
	if err != nil {
		return nil, err
	}
	if err := s.Refused("archive logs", prepared.problems); err != nil {
		return nil, err
	}
	if config.Sealed != "" {
		if err := s.run(ctx, call{op: "release archived logs", script: logs.Release, env: map[string]string{"UPTO": config.Sealed}}); err != nil {
			return nil, err
		}
	}
	if err := s.run(ctx, call{op: "complete the present log", script: logs.Switch}); err != nil {
		return nil, err
	}
	listed, err := s.ask(ctx, call{op: "list logs", script: logs.List, env: map[string]string{"AFTER": config.Sealed}})
	if err != nil {
		return nil, err
	}
	var bytes int64
	for _, log := range listed.logs {
		bytes += log.Bytes
	}
	config.Progress.Total(bytes, int64(len(listed.logs)))
	var out []StoredLog
	for _, log := range listed.logs {
		object, err := s.storeLog(ctx, config, log)
		if err != nil {
			return nil, err
		}
		out = append(out, StoredLog{log, object})
	}
	return out, nil
}

func (s *Server) storeLog(ctx context.Context, config ArchiveConfig, log Log) (repository.Object, error) {
	w, err := config.Store.Create(ctx, s.Database.Name+"/"+log.Name)
	if err != nil {
		return repository.Object{}, err
	}
	defer w.Abort()
	err = s.run(ctx, call{
		op: "archive log " + log.Name, script: s.Engine.Spec.Logs.Read, env: logEnv(log), stdout: &counting{to: w, progress: config.Progress},
	})
	if err != nil {
		return repository.Object{}, err
	}
	object, err := w.Commit()
	if err == nil && object.Size != log.Bytes {
		err = fault.Newf("archive log", fault.Transient, log.Name, "%d of %d bytes came", object.Size, log.Bytes)
	}
	config.Progress.Add(0, 1)
	return object, err
}

// Gap finds the first place at which the log is not whole, from a position on that may be empty. Logs are in
// their order; those that are no stretch of the log don't count.
func Gap(from string, logs []Log) (before, after string, found bool) {
	at := from
	for _, log := range logs {
		if log.From == "" {
			continue
		}
		if at != "" && log.From > at {
			return at, log.From, true
		}
		at = max(at, log.To)
	}
	return "", "", false
}

// Until is where a recovery ends: exactly one field is set.
type Until struct {
	Time string `yaml:"time,omitempty" json:"time,omitempty"` // RFC 3339
	LSN  string `yaml:"lsn,omitempty" json:"lsn,omitempty"`   // a position in the engine's own words
	Name string `yaml:"name,omitempty" json:"name,omitempty"` // of a restore point that was set at the server
	End  bool   `yaml:"end,omitempty" json:"end,omitempty"`   // of everything that was archived
}

// IsZero reports that nothing is to be rolled forward.
func (u Until) IsZero() bool { return u == Until{} }

// Count is how many of the fields are set.
func (u Until) Count() int {
	return len(u.Env())
}

// String is the target for people, empty for none.
func (u Until) String() string {
	switch {
	case u.End:
		return "end"
	case u.Time != "":
		return "time " + u.Time
	case u.LSN != "":
		return "position " + u.LSN
	case u.Name != "":
		return "restore point " + u.Name
	default:
		return ""
	}
}

// Env is the target as scripts find it.
func (u Until) Env() map[string]string {
	env := map[string]string{}
	for name, value := range map[string]string{"UNTIL_TIME": u.Time, "UNTIL_LSN": u.LSN, "UNTIL_NAME": u.Name} {
		if value != "" {
			env[name] = value
		}
	}
	if u.End {
		env["UNTIL_END"] = "1"
	}
	return env
}

// Locate gives the position of a target in the archived logs, empty where only their content tells it.
func (s *Server) Locate(ctx context.Context, until Until, archived []Log) (string, error) {
	if s.Engine.Spec.Logs == nil {
		return "", fault.Newf("find the target", fault.Unsupported, s.Database.Name, "engine %s knows no logs", s.Engine.Metadata.Name)
	}
	t, err := s.ask(ctx, call{op: "find the target", script: s.Engine.Spec.Logs.Locate, env: until.Env(), logs: archived})
	if err != nil {
		return "", err
	}
	return t.facts["position"], s.Refused("find the target", t.problems)
}

func logEnv(log Log) map[string]string {
	return map[string]string{"LOG": log.Name, "BYTES": strconv.FormatInt(log.Bytes, 10)}
}
