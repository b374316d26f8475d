package database

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// Store is where the parts of a backup go: a *repository.Repository.
type Store interface {
	Create(ctx context.Context, name string) (*repository.Writer, error)
}

// Progress receives what was moved so far; orchestrator.Progress is one.
type Progress interface {
	Total(bytes, items int64)
	Add(bytes, items int64)
	Status(text string)
}

// BackupConfig says what is captured, and where to.
type BackupConfig struct {
	Mode     string // empty is the engine's own choice
	Store    Store
	Progress Progress
	Now      func() time.Time
	// Digests has the engine compute the content of every table at the backup's instant.
	Digests bool
}

// Backup is what a server was at one instant.
type Backup struct {
	Mode        string
	PointInTime bool
	Server      string    // its version
	Taken       time.Time // what was acknowledged by then is there
	Facts       map[string]string
	Parts       []Stored
	Scopes      []string
	Digests     []Digest // sorted by scope and name
}

// Stored is a part with its content.
type Stored struct {
	Part
	Object repository.Object
}

// partTries bounds how often one part is begun while the session holds the instant.
const partTries = 3

// Backup captures the server. A part whose stream broke is begun anew while the session holds the instant; what
// is not whole is never part of the result. Errors have the kind that the engine knows for what its tools said.
func (s *Server) Backup(ctx context.Context, config BackupConfig) (Backup, error) {
	name, mode, err := s.Mode(config.Mode)
	if err != nil {
		return Backup{}, err
	}
	out := Backup{Mode: name, PointInTime: mode.PointInTime}
	if out.Server, err = s.Version(ctx); err != nil {
		return out, err
	}
	planned, err := s.ask(ctx, call{op: "list the parts", script: mode.Parts})
	if err != nil {
		return out, err
	}
	if err := different(planned.parts); err != nil {
		return out, err
	}
	env := map[string]string{}
	if config.Digests && s.Engine.Spec.Digest != "" {
		env["DIGESTS"] = "yes"
	}
	out.Taken = config.Now().UTC() // before the instant: what was acknowledged by then is in the backup
	held, err := s.begin(ctx, call{op: "hold the instant", script: mode.Session, env: env, parts: planned.parts})
	if err != nil {
		return out, err
	}
	b := &backingUp{Server: s, config: config, mode: mode, held: held, backup: &out}
	err = b.parts(ctx, planned)
	ended := held.close()
	if err != nil {
		return out, err
	}
	if ended != nil {
		return out, ended
	}
	out.Facts, out.Scopes = merged(planned.facts, held.facts()), planned.scopes
	if out.Facts["pointInTime"] == "false" { // the engine knows this server better than its mode does
		out.PointInTime = false
	}
	slices.SortFunc(out.Parts, func(a, b Stored) int { return cmp.Or(a.Phase-b.Phase, cmp.Compare(a.Path, b.Path)) })
	slices.SortFunc(out.Digests, byName)
	return out, nil
}

func byName(a, b Digest) int {
	return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name))
}

func different(parts []Part) error {
	seen := map[string]bool{}
	for _, part := range parts {
		if seen[part.Path] {
			return fault.Newf("list the parts", fault.Internal, part.Path, "the engine tells two parts of this name")
		}
		seen[part.Path] = true
	}
	if len(parts) == 0 {
		return fault.Newf("list the parts", fault.Internal, "", "the engine tells no parts")
	}
	return nil
}

// backingUp is a backup under way.
type backingUp struct {
	*Server
	config BackupConfig
	mode   plans.EngineMode
	held   *session

	mu     sync.Mutex
	backup *Backup
}

// parts moves all parts, the heaviest first, and computes the digests beside them.
func (b *backingUp) parts(ctx context.Context, planned told) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if b.held != nil {
		go func() {
			select {
			case <-b.held.lost():
				cancel(errors.Join(b.held.end(), fault.Newf("hold the instant", fault.Transient, b.Database.Name, "the session ended before the backup did")))
			case <-ctx.Done():
			}
		}()
	}
	var bytes int64
	for _, part := range planned.parts {
		bytes += part.Bytes
	}
	b.config.Progress.Total(bytes, int64(len(planned.parts)))
	heavy := slices.SortedStableFunc(slices.Values(planned.parts), func(x, y Part) int { return cmp.Compare(y.Bytes, x.Bytes) })
	group, working := errgroup.WithContext(ctx)
	if !b.mode.Holds { // else all must begin before the session lets go
		group.SetLimit(max(b.mode.Parallel, 1))
	}
	for _, part := range heavy {
		group.Go(func() error { return b.part(working, part) })
	}
	switch {
	case !b.config.Digests || b.Engine.Spec.Digest == "":
	case b.mode.Holds:
		group.Go(func() error { return b.digests(working, planned.scopes) })
	default:
		for _, scope := range planned.scopes {
			group.Go(func() error { return b.digest(working, scope) })
		}
	}
	err := group.Wait()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

func (b *backingUp) digest(ctx context.Context, scope string) error {
	digests, err := b.Digests(ctx, []string{scope}, b.held.facts())
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backup.Digests = append(b.backup.Digests, digests...)
	return nil
}

// digests computes those of all scopes in one call, which the session waits for as for a part: each digest
// stands below the line of its scope.
func (b *backingUp) digests(ctx context.Context, scopes []string) error {
	t, err := b.ask(ctx, call{op: "compute digests", script: b.Engine.Spec.Digest, args: scopes, facts: b.held.facts()})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backup.Digests = t.digests
	return nil
}

// part stores one part. Where the mode holds writers still, all parts share the moment, and none can be begun
// later.
func (b *backingUp) part(ctx context.Context, part Part) error {
	tries := partTries
	if b.mode.Holds {
		tries = 1
	}
	var err error
	for range tries {
		var object repository.Object
		object, err = b.store(ctx, part)
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.backup.Parts = append(b.backup.Parts, Stored{part, object})
			return nil
		}
		if ctx.Err() != nil || !fault.KindOf(err).Retryable() {
			return err
		}
		b.config.Progress.Status(fmt.Sprintf("%s of %s begins anew: %v", part.Path, b.Database.Name, err))
	}
	return err
}

func (b *backingUp) store(ctx context.Context, part Part) (repository.Object, error) {
	w, err := b.config.Store.Create(ctx, b.Database.Name+"/"+part.Path)
	if err != nil {
		return repository.Object{}, err
	}
	defer w.Abort()
	moved := &counting{to: w, progress: b.config.Progress}
	err = b.run(ctx, call{
		op: "back up " + part.Path, script: b.mode.Backup, args: part.Args, env: map[string]string{"PART": part.Path}, facts: b.held.facts(), stdout: moved,
	})
	if err != nil {
		b.config.Progress.Add(-moved.bytes, 0)
		return repository.Object{}, err
	}
	b.config.Progress.Add(0, 1)
	return w.Commit()
}

type counting struct {
	to       io.Writer
	progress Progress
	bytes    int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.bytes += int64(n)
	c.progress.Add(int64(n), 0)
	return n, err
}

// Digests has the engine compute the content of every table in the scopes, at the instant that facts name, or
// now.
func (s *Server) Digests(ctx context.Context, scopes []string, facts map[string]string) ([]Digest, error) {
	var all []Digest
	for _, scope := range scopes {
		t, err := s.ask(ctx, call{op: "compute digests", script: s.Engine.Spec.Digest, env: map[string]string{"SCOPE": scope}, facts: facts})
		if err != nil {
			return nil, err
		}
		for _, d := range t.digests {
			d.Scope = scope
			all = append(all, d)
		}
	}
	slices.SortFunc(all, byName)
	return all, nil
}
