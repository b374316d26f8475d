package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

const (
	// viewEvery is the shortest time between two views.
	viewEvery = 500 * time.Millisecond
	// lookWithin bounds a look at who owns the run and how far it is.
	lookWithin = 2 * time.Second
	// neverBegins is the age from which a run that has neither an owner nor an event stands still: the
	// process that made it died before it began, or was refused what the run works on.
	neverBegins = 10 * time.Second
)

// Watching says what a watch tells, and for how long. Its functions are called one after the other; an
// error of theirs ends the watch.
type Watching struct {
	Every time.Duration // between two views; at least, and by default, half a second
	Stay  bool          // also when the run has ended or stands still
	Event func(journal.Event) error
	View  func(*View) error
}

// Watch follows a run from the beginning of its journal, whoever works on it, until it has ended or
// stands still: completed, cancelled or undone, or failed, interrupted, paused or undo-failed with nobody
// at work on it. It returns the last view, which is complete. An orphaned run is waited for: another
// process may adopt it.
//
// Each event is read once. While the journal does not answer, views say so and the watch goes on.
func (r *Runner) Watch(ctx context.Context, id string, watching Watching) (*View, error) {
	header, err := r.Store.Header(ctx, id)
	if err != nil {
		return nil, err
	}
	x, err := r.thaw(header)
	if err != nil {
		return nil, err
	}
	w := &watcher{Watching: watching, onlooker: newOnlooker(x)}
	w.Every = max(w.Every, viewEvery)
	history, err := r.Store.Events(ctx, header.ID, 0)
	if err != nil {
		return nil, err
	}
	for _, event := range history {
		if err := w.take(event); err != nil {
			return nil, err
		}
	}
	return w.follow(ctx)
}

// watcher is one watch of one run.
type watcher struct {
	Watching
	*onlooker
	sequence int64 // of the last event that was seen
}

// take sees an event and hands it on.
func (w *watcher) take(event journal.Event) error {
	if event.Sequence <= w.sequence {
		return nil // seen before the watch was taken up again
	}
	w.sequence = event.Sequence
	if err := w.see(event); err != nil || w.Event == nil {
		return err
	}
	return w.Event(event)
}

// follow takes events as they come, and shows views, until the run has ended.
func (w *watcher) follow(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.look(ctx)
	if w.over() {
		return w.end()
	}
	events, ended := w.subscribe(ctx)
	ticker := time.NewTicker(w.Every)
	defer ticker.Stop()
	if err := w.show(w.view(false)); err != nil {
		return nil, err
	}
	for {
		select {
		case event := <-events:
			if err := w.take(event); err != nil {
				return nil, err
			}
			if strings.HasPrefix(event.Type, "run.") {
				w.look(ctx)
			}
		case <-ticker.C:
			w.look(ctx)
			if err := w.show(w.view(false)); err != nil {
				return nil, err
			}
		case err := <-ended:
			if err != nil && ctx.Err() == nil {
				return nil, err
			}
			ended = nil // the journal is packed: nothing more comes
		case <-ctx.Done():
			return nil, &Interrupted{fault.Newf("watch run", fault.Transient, w.id, "the watch has ended; the run itself goes on")}
		}
		if w.over() && len(events) == 0 {
			return w.end()
		}
	}
}

func (w *watcher) show(v *View) error {
	if w.View == nil {
		return nil
	}
	return w.View(v)
}

func (w *watcher) end() (*View, error) {
	v := w.view(true)
	return v, w.show(v)
}

// over reports that nothing more is to come.
func (w *watcher) over() bool {
	if w.Stay {
		return false
	}
	switch state := w.ledger.run.state(); state {
	case RunStateFailed, RunStateInterrupted, RunStatePaused, RunStateUndoFailed:
		return !w.alive // a process that still has it is about to go on, or to let go
	case RunStatePending:
		return !w.alive && w.Now().Sub(w.header.Created) > neverBegins
	default:
		return isFinal(state)
	}
}

// subscribe receives the events after those that were seen. The second channel tells, once, why no more
// of them come.
func (w *watcher) subscribe(ctx context.Context) (<-chan journal.Event, <-chan error) {
	events, ended := make(chan journal.Event, 256), make(chan error, 1)
	last := w.sequence
	go func() {
		for {
			err := w.Store.Watch(ctx, w.id, last, func(event journal.Event) error {
				select {
				case events <- event:
					last = event.Sequence
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			if err == nil || ctx.Err() != nil || !fault.KindOf(err).Retryable() {
				ended <- err
				return
			}
			select { // no leader, no connection, or a revision that was compacted
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
	return events, ended
}

// look asks who owns the run and how far its tasks are.
func (w *watcher) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	err := errors.Join(w.lookAtOwner(ctx), w.lookAtLocks(ctx))
	switch {
	case err == nil:
		w.trouble = ""
	case !errors.Is(context.Cause(ctx), context.Canceled):
		w.trouble = "the journal does not answer: " + err.Error()
	}
}

func (w *watcher) lookAtOwner(ctx context.Context) error {
	owner, alive, err := w.Store.Owner(ctx, w.id)
	if err != nil {
		return err
	}
	w.owner, w.alive = owner, alive
	if !alive {
		w.owner, w.published = "", nil
		return nil
	}
	raw, err := w.Store.Progress(ctx, w.id)
	if err != nil || raw == nil {
		return err
	}
	var updates []Update
	if err := json.Unmarshal(raw, &updates); err != nil {
		return fault.New("read progress", fault.Corrupt, w.id, err)
	}
	w.published = make(map[string]Update, len(updates))
	for _, u := range updates {
		w.published[u.Step+"/"+u.Item] = u
	}
	return nil
}

// lookAtLocks finds out what a run waits for that has an owner and is not at work.
func (w *watcher) lookAtLocks(ctx context.Context) error {
	w.blockers = nil
	if state := w.ledger.run.state(); !w.alive || atWork(state) || isFinal(state) {
		return nil
	}
	locks, err := w.Store.Locks(ctx)
	if err != nil {
		return err
	}
	for _, name := range w.resources() {
		if run := locks[name]; run != "" && run != w.id && !slices.Contains(w.blockers, Blocker{name, run}) {
			w.blockers = append(w.blockers, Blocker{name, run})
		}
	}
	return nil
}
