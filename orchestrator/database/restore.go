package database

import (
	"cmp"
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// RestoreConfig says what is brought back.
type RestoreConfig struct {
	Mode  string
	Parts []Part
	Facts map[string]string
	Open  func(ctx context.Context, part Part) (io.ReadCloser, error)
	// Replace overwrites what the target holds. Without it, a target with data is refused.
	Replace bool
	// Until is where the logs roll the backup forward to. Logs are all that there are, in their order.
	Until    Until
	Logs     []Log
	OpenLog  func(ctx context.Context, log Log) (io.ReadCloser, error)
	Progress Progress
	// Begun, where there is one, is called before the first thing is changed.
	Begun func()
}

// CheckTarget finds everything that would make a restore fail, or lose what the target holds.
func (s *Server) CheckTarget(ctx context.Context, config RestoreConfig) ([]Problem, error) {
	_, mode, err := s.Mode(config.Mode)
	if err != nil {
		return nil, err
	}
	t, err := s.ask(ctx, call{op: "check target", script: s.tools() + mode.Target, parts: config.Parts, facts: config.Facts, env: config.Until.Env()})
	if !config.Replace {
		return t.problems, err
	}
	return slices.DeleteFunc(t.problems, func(p Problem) bool { return fault.ParseKind(p.Kind) == fault.Exists }), err
}

// Restore brings a backup back: nothing is overwritten before the target was found fit for it. It can be
// repeated from its beginning, and must be after an error.
func (s *Server) Restore(ctx context.Context, config RestoreConfig) error {
	_, mode, err := s.Mode(config.Mode)
	if err != nil {
		return err
	}
	for _, part := range config.Parts {
		if !goodPath(part.Path) || strings.ContainsAny(strings.Join(part.Args, ""), "\x00\n\t") {
			return fault.Newf("restore database", fault.Corrupt, part.Path, "a part that no engine tells")
		}
	}
	problems, err := s.CheckTarget(ctx, config)
	if err != nil {
		return err
	}
	if err := s.Refused("restore database", problems); err != nil {
		return err
	}
	if !config.Until.IsZero() {
		if err := s.rollForward(ctx, &config); err != nil {
			return err
		}
	}
	if config.Begun != nil {
		config.Begun()
	}
	r := &restoring{Server: s, config: config, mode: mode}
	if err := r.script(ctx, "begin the restore", mode.Begin); err != nil {
		return err
	}
	if err := r.phases(ctx); err != nil {
		return err
	}
	return r.script(ctx, "finish the restore", mode.Finish)
}

// Empty takes away what another member of the server's cluster holds, so that it copies the restored one. It can be
// repeated.
func (s *Server) Empty(ctx context.Context, modeName string) error {
	_, mode, err := s.Mode(modeName)
	if err != nil {
		return err
	}
	return s.run(ctx, call{op: "empty a member", script: mode.Empty})
}

// logArgs begins the arguments of a part that is a file of the log.
const logArgs = "log"

// rollForward adds the files of the log that the target needs to the parts, and refuses a target that they do not
// reach, before anything is overwritten.
func (s *Server) rollForward(ctx context.Context, config *RestoreConfig) error {
	refuse := func(format string, args ...any) error {
		return fault.Newf("roll forward", fault.NotFound, s.Database.Name, format, args...)
	}
	until, err := s.Locate(ctx, config.Until, config.Logs)
	if err != nil {
		return err
	}
	begin, end := config.Facts["from"], config.Facts["to"]
	if until != "" && until < end {
		return refuse("the target %s is before the end of this backup, %s: choose an earlier one", until, end)
	}
	needed := slices.DeleteFunc(slices.Clone(config.Logs), func(log Log) bool {
		return log.From != "" && (log.To <= begin || until != "" && log.From > until)
	})
	if before, after, gap := Gap(begin, needed); gap {
		return refuse("the archived logs have a gap: there is none between %s and %s", before, after)
	}
	phase, reach := 1, ""
	for _, part := range config.Parts {
		phase = max(phase, part.Phase+1)
	}
	parts, open := slices.Clone(config.Parts), config.Open
	logs := map[string]Log{}
	for _, log := range needed {
		path := "logs/" + log.Name
		logs[path] = log
		parts = append(parts, Part{Path: path, Phase: phase, Bytes: log.Bytes, Args: []string{logArgs, log.Name, strconv.FormatInt(log.Bytes, 10)}})
		reach = max(reach, log.To)
	}
	if reach < end || until != "" && reach <= until {
		return refuse("the archived logs end at %s, and the target is %s", reach, max(until, end))
	}
	config.Parts = parts
	config.Open = func(ctx context.Context, part Part) (io.ReadCloser, error) {
		if log, is := logs[part.Path]; is {
			return config.OpenLog(ctx, log)
		}
		return open(ctx, part)
	}
	for _, part := range parts { // a file that is not there has to show before anything is overwritten
		content, err := config.Open(ctx, part)
		if err != nil {
			return err
		}
		_ = content.Close() // it was only opened
	}
	return nil
}

type restoring struct {
	*Server
	config RestoreConfig
	mode   plans.EngineMode
}

func (r *restoring) script(ctx context.Context, op, script string) error {
	if script == "" {
		return nil
	}
	r.config.Progress.Status(op + " of " + r.Database.Name)
	return r.run(ctx, call{op: op, script: script, parts: r.config.Parts, facts: r.config.Facts, env: r.config.Until.Env()})
}

// phases reads the parts phase by phase, and the heaviest of a phase first.
func (r *restoring) phases(ctx context.Context) error {
	var bytes int64
	for _, part := range r.config.Parts {
		bytes += part.Bytes
	}
	r.config.Progress.Total(bytes, int64(len(r.config.Parts)))
	parts := slices.SortedStableFunc(slices.Values(r.config.Parts), func(a, b Part) int { return cmp.Or(cmp.Compare(a.Phase, b.Phase), cmp.Compare(b.Bytes, a.Bytes)) })
	for len(parts) > 0 {
		phase := parts[:1]
		for len(phase) < len(parts) && parts[len(phase)].Phase == phase[0].Phase {
			phase = parts[:len(phase)+1]
		}
		group, working := errgroup.WithContext(ctx)
		group.SetLimit(max(r.mode.Parallel, 1))
		for _, part := range phase {
			group.Go(func() error { return r.part(working, part) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		parts = parts[len(phase):]
	}
	return nil
}

func (r *restoring) part(ctx context.Context, part Part) error {
	content, err := r.config.Open(ctx, part)
	if err != nil {
		return err
	}
	defer content.Close() // it was only read
	source := &reading{from: content, progress: r.config.Progress}
	env := map[string]string{"PART": part.Path}
	maps.Copy(env, r.config.Until.Env())
	err = r.run(ctx, call{op: "restore " + part.Path, script: r.mode.Restore, args: part.Args, env: env, parts: r.config.Parts, facts: r.config.Facts, stdin: source})
	if failed := source.failed(); failed != nil { // the tool saw an end where there was none
		return failed
	}
	if err == nil {
		r.config.Progress.Add(0, 1)
	}
	return err
}

// reading counts what is read, and remembers why it could not be read on.
type reading struct {
	from     io.Reader
	progress Progress

	mu  sync.Mutex
	err error
}

func (r *reading) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.progress.Add(int64(n), 0)
	if err != nil && err != io.EOF {
		r.mu.Lock()
		r.err = err
		r.mu.Unlock()
	}
	return n, err
}
