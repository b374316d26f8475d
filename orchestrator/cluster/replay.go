package cluster

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

const (
	// replayParallel is how many objects are created at a time. The server's priority and fairness
	// asks for patience when that is too much for it.
	replayParallel = 64
	// maxNotes bounds the report of what did not come back; the counts are always whole.
	maxNotes = 200
)

// Conflict says what becomes of an object that stands in the cluster already, with other content.
type Conflict string

// The answers to a conflict.
const (
	KeepExisting    Conflict = "keep"    // the object stays as it is, and is reported as lost
	ReplaceExisting Conflict = "replace" // the recovery point's content takes its place
)

// ReplayConfig says what to create, and where.
type ReplayConfig struct {
	Client   *Client // of the cluster to replay into
	Recorded         // what to replay
	// Include, Exclude and ExcludeKinds are as in CaptureConfig.
	Include, Exclude, ExcludeKinds []string
	OnConflict                     Conflict // empty means keep
	// Wait bounds the tries of what the cluster does not take yet: kinds that are not served, webhooks
	// whose backends start, namespaces that are being deleted.
	Wait     time.Duration
	Progress Progress
	Report   func(Note)
}

// Replayed counts what a replay did. Objects = Created + Present + Replaced + Passed + Lost.
type Replayed struct {
	Objects  int         `json:"objects"`
	Created  int         `json:"created"`
	Present  int         `json:"present"`  // stood there already, with the same content
	Replaced int         `json:"replaced"` // stood there with other content, and has the captured one now
	Passed   int         `json:"passed"`   // not for another cluster: see Exceptions
	Lost     int         `json:"lost"`
	Waves    []WaveTally `json:"waves"`
	// Exceptions are the reasons of what was passed over.
	Exceptions []Exception `json:"exceptions,omitempty"`
}

// WaveTally counts the objects of one wave.
type WaveTally struct {
	Name    string `json:"name"`
	Objects int    `json:"objects"`
}

// Replay creates the objects of a recovery point in a different cluster that already runs, in
// dependency order, many at a time. UIDs in owner references are replaced by those of the new owners.
// Passed over is what belongs to the captured cluster's own machines and control plane, and what
// controllers make again. It can be repeated: what stands there already is found.
//
// What the cluster refuses is noted as lost and is no error. Errors: Denied when it lets nothing in,
// Transient when it does not answer, Corrupt when the recovery point can't be read.
func Replay(ctx context.Context, config ReplayConfig) (Replayed, error) {
	only, err := newFilter(config.Include, config.Exclude, config.ExcludeKinds)
	if err != nil {
		return Replayed{}, err
	}
	r := &replay{
		ReplayConfig: config, excuses: newExcuses(ModeReplay, facts{}), uids: map[string]string{}, captured: map[string]Entry{},
		pending: map[Key]bool{}, reasons: map[string]int{},
	}
	return r.run(ctx, only)
}

// replay is one Replay at work.
type replay struct {
	ReplayConfig
	excuses

	captured map[string]Entry // by the UID that the captured cluster gave; written before the work starts

	mu      sync.Mutex
	uids    map[string]string // the new cluster's UID for each captured one
	pending map[Key]bool      // neither created nor passed over nor lost: others may wait for these
	reasons map[string]int
	notes   int
	result  Replayed
}

func (r *replay) run(ctx context.Context, only *filter) (Replayed, error) {
	all := waves()
	byWave := make([][]Entry, len(all))
	var bytes int64
	for _, entry := range r.Entries {
		if only.dropsKind(entry.Group, entry.Resource) || only.skipsKey(entry.Key()) {
			continue
		}
		r.captured[entry.UID], r.pending[entry.Key()] = entry, true
		i := waveOf(all, entry.Group, entry.Resource)
		byWave[i] = append(byWave[i], entry)
		r.result.Objects++
		bytes += entry.Size
	}
	r.Progress.Total(bytes, int64(r.result.Objects))
	var held []Entry
	for i, w := range all {
		r.result.Waves = append(r.result.Waves, WaveTally{Name: w.name, Objects: len(byWave[i])})
		r.Progress.Status(w.name)
		var err error
		if held, err = r.untilStuck(ctx, append(held, byWave[i]...)); err != nil {
			return Replayed{}, err
		}
		if w.name == "custom resource definitions" {
			if err := r.awaitDefinitions(ctx, byWave[i]); err != nil {
				return Replayed{}, err
			}
		}
	}
	if err := r.stragglers(ctx, held); err != nil {
		return Replayed{}, err
	}
	return r.finish(), nil
}

// untilStuck creates objects in passes, as long as a pass makes a difference: owners first, what they
// own in the next one. It returns what the cluster does not take yet.
func (r *replay) untilStuck(ctx context.Context, entries []Entry) ([]Entry, error) {
	for {
		held, err := r.pass(ctx, entries)
		if err != nil || len(held) == 0 || len(held) == len(entries) {
			return entriesOf(held), err
		}
		entries = entriesOf(held)
	}
}

// heldEntry is an entry that could not be created yet, and why.
type heldEntry struct {
	Entry
	cause error
}

func entriesOf(held []heldEntry) []Entry {
	out := make([]Entry, 0, len(held))
	for _, h := range held {
		out = append(out, h.Entry)
	}
	return out
}

// pass tries each entry once.
func (r *replay) pass(ctx context.Context, entries []Entry) ([]heldEntry, error) {
	var mu sync.Mutex
	var held []heldEntry
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(replayParallel)
	for _, entry := range entries {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			cause, err := r.one(working, entry)
			if cause != nil {
				mu.Lock()
				held = append(held, heldEntry{entry, cause})
				mu.Unlock()
				return nil
			}
			if err == nil {
				r.Progress.Add(entry.Size, 1)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return held, ctx.Err()
}

// stragglers tries again what was held up, until it is created or the wait is over.
func (r *replay) stragglers(ctx context.Context, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, r.Wait)
	defer cancel()
	for {
		held, err := r.pass(ctx, entries)
		if err != nil || len(held) == 0 {
			return err
		}
		r.Progress.Status(fmt.Sprintf("%d objects are not taken yet", len(held)))
		if len(held) < len(entries) {
			entries = entriesOf(held)
			continue
		}
		if sleep(waiting, pollEvery) == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, h := range held {
			r.lose(h.Key(), fmt.Sprintf("not taken within %s: %v", r.Wait, h.cause))
		}
		return nil
	}
}

// awaitDefinitions waits until the kinds of custom resource definitions are served. One that the
// cluster does not accept holds up its own objects alone.
func (r *replay) awaitDefinitions(ctx context.Context, entries []Entry) error {
	names := map[string]bool{}
	for _, entry := range entries {
		names[entry.Name] = true
	}
	if len(names) == 0 {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, r.Wait)
	defer cancel()
	definitions := Resource{Group: "apiextensions.k8s.io", Version: "v1", Name: "customresourcedefinitions"}
	_ = until(waiting, func() (bool, error) { // what is not served when the time is up is held, and noted then
		served := true
		var list struct {
			Items []Object `json:"items"`
		}
		err := r.Client.call(waiting, request{method: http.MethodGet, path: definitions.path("")}, &list)
		for _, definition := range list.Items {
			served = served && (!names[definition.name()] || established(definition))
		}
		return served && err == nil, err
	})
	return ctx.Err()
}

func established(definition Object) bool {
	conditions, _ := at(definition, "status", "conditions").([]any)
	return slices.ContainsFunc(conditions, func(entry any) bool {
		return at(entry, "type") == "Established" && at(entry, "status") == "True"
	})
}

func (r *replay) count(counter *int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*counter++
}

// passOver settles an object that is not for another cluster.
func (r *replay) passOver(key Key, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Passed++
	r.reasons[reason]++
	r.pending[key] = false
}

// lose settles an object that does not come back.
func (r *replay) lose(key Key, text string) {
	r.mu.Lock()
	r.result.Lost++
	r.pending[key] = false
	r.mu.Unlock()
	r.note(Lost, key, text)
}

func (r *replay) note(weight Weight, key Key, text string) {
	r.mu.Lock()
	r.notes++
	tell := r.notes <= maxNotes
	r.mu.Unlock()
	if tell {
		r.Report(Note{Weight: weight, Subject: key.String(), Text: text})
	}
}

func (r *replay) finish() Replayed {
	for reason, count := range r.reasons {
		r.result.Exceptions = append(r.result.Exceptions, Exception{Reason: reason, Count: count})
	}
	slices.SortFunc(r.result.Exceptions, func(a, b Exception) int { return strings.Compare(a.Reason, b.Reason) })
	if more := r.notes - maxNotes; more > 0 {
		r.Report(Note{Weight: Info, Subject: "objects", Text: fmt.Sprintf("%d more notes like these; the counts are whole", more)})
	}
	return r.result
}

// load reads a captured object.
func (r *replay) load(ctx context.Context, entry Entry) (Object, error) {
	text, err := r.Load(ctx, entry.ID)
	if err != nil {
		return nil, fault.New("replay", fault.KindOf(err), entry.Path(), err)
	}
	return parseFile(entry.Path(), text)
}
