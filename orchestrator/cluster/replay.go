package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// replayParallel is how many objects are created at a time at most: fewer while the server's priority
	// and fairness asks for patience.
	replayParallel = 64
	// maxNotes bounds the report of what did not come back; the outcomes are always whole.
	maxNotes = 200
)

// ReplayConfig says what to create, and where.
type ReplayConfig struct {
	Client   *Client // of the cluster to replay into
	Recorded         // what to replay
	// Selection chooses among what was captured.
	Selection
	// OnConflict is what becomes of an object that stands there with other content, when no policy
	// says so; empty means keep.
	OnConflict Conflict
	// Policies say more about some kinds; the first that fits an object holds.
	Policies []Policy
	// Transform changes what is created, in its order.
	Transform []Transformation
	// LeaveTo are GitOps tools, ArgoCD and Flux, that make again what they manage.
	LeaveTo []string
	// Pause names controllers that would race with the replay, as "<namespace>/<resource>.<group>/<name>":
	// they are scaled to nothing, or suspended, and set back at the end, in this order.
	Pause []string
	// Wait bounds how long nothing may come back while the cluster does not take what is left: kinds
	// that are not served, webhooks whose backends start, namespaces that are being deleted.
	Wait     time.Duration
	Progress Progress
	Report   func(Note)
}

// Validate says what is wrong with selection, policies or transformations.
func (c ReplayConfig) Validate() error {
	_, err := newReplay(c)
	return err
}

// Replayed counts what a replay did. Objects is the sum of the counts up to Lost.
type Replayed struct {
	Objects   int         `json:"objects"`
	Created   int         `json:"created"`
	Present   int         `json:"present"`
	Updated   int         `json:"updated,omitempty"`
	Replaced  int         `json:"replaced"`
	Recreated int         `json:"recreated,omitempty"`
	Kept      int         `json:"kept,omitempty"`
	Passed    int         `json:"passed"`
	Lost      int         `json:"lost"`
	Pruned    int         `json:"pruned,omitempty"`
	Waves     []WaveTally `json:"waves"`
	// Exceptions are the reasons of what was passed over.
	Exceptions []Exception `json:"exceptions,omitempty"`
	// Outcomes has a line for each object, in the order of their keys.
	Outcomes []ObjectOutcome `json:"-"`
}

// WaveTally counts the objects of one wave.
type WaveTally struct {
	Name    string `json:"name"`
	Objects int    `json:"objects"`
}

// Replay creates the objects of a recovery point in a different cluster that already runs, each as
// soon as what it needs is there, many at a time. UIDs in owner references are replaced by those of
// the new owners. Passed over is what belongs to the captured cluster's own machines and control
// plane, and what controllers make again. It can be repeated: what stands there already is found.
//
// What the cluster refuses is noted as lost and is no error. Errors: Denied when it lets nothing in,
// Transient when it does not answer, Invalid for a policy or transformation that can't be.
func Replay(ctx context.Context, config ReplayConfig) (Replayed, error) {
	r, err := newReplay(config)
	if err != nil {
		return Replayed{}, err
	}
	return r.run(ctx)
}

// replay is one Replay at work.
type replay struct {
	ReplayConfig
	excuses
	policies  []*policy
	transform *transformer
	resolve   resolver
	owners    owners
	managers  []Key        // GitOps objects of the point
	custom    map[Key]bool // kinds that a CustomResourceDefinition of the point defines

	standing map[Key]stood // what stood in the cluster at the start, by its key there
	queue    *queue

	mu      sync.Mutex
	quotas  map[Key]bool // captured ones, by their keys in the cluster
	reasons map[string]int
	notes   int
	pruned  []ObjectOutcome
	extra   []extra
	raised  map[Key]bool
	parted  []parted
}

func newReplay(config ReplayConfig) (*replay, error) {
	r := &replay{
		ReplayConfig: config, excuses: newExcuses(ModeReplay, facts{}), owners: newOwners(config.Entries), custom: map[Key]bool{},
		standing: map[Key]stood{}, quotas: map[Key]bool{}, reasons: map[string]int{}, raised: map[Key]bool{},
	}
	for _, entry := range config.Entries {
		if isDefinition(entry.Key()) {
			r.custom[definedBy(entry.Name)] = true
		}
		if managing(entry.Key()) {
			r.managers = append(r.managers, entry.Key())
		}
	}
	r.resolve = resolverOf(config.resources())
	err := config.Selection.Validate()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkLeaveTo(config.LeaveTo), checkPause(config.Pause)); err != nil {
		return nil, err
	}
	if r.policies, err = newPolicies(config.Policies, config.OnConflict); err != nil {
		return nil, err
	}
	r.transform, err = newTransformer(config.Transform)
	return r, err
}

func (r *replay) run(ctx context.Context) (Replayed, error) {
	tasks, result, err := r.begin(ctx)
	if err != nil {
		return Replayed{}, err
	}
	if err := r.lowerQuotas(ctx); err != nil { // that an earlier replay raised and could not set back
		return Replayed{}, err
	}
	paused, err := r.pausables(ctx)
	if err != nil {
		return Replayed{}, err
	}
	if err = r.pause(ctx, paused); err == nil {
		err = r.bringAll(ctx, tasks)
	}
	// What was held is set back after a failure too: whoever repeats the replay may come much later.
	after := context.WithoutCancel(ctx)
	if err := errors.Join(err, r.lowerQuotas(after), r.letGo(after, paused)); err != nil {
		return Replayed{}, err
	}
	return r.finish(tasks, result), nil
}

// begin chooses what is to be replayed, and looks what stands in its place.
func (r *replay) begin(ctx context.Context) ([]*task, Replayed, error) {
	entries, err := r.Select(ctx, r.Selection)
	if err != nil {
		return nil, Replayed{}, err
	}
	tasks, result := r.tasks(entries)
	return tasks, result, r.survey(ctx, tasks)
}

// bringAll brings back all objects, and prunes what is no part of them.
func (r *replay) bringAll(ctx context.Context, tasks []*task) error {
	all := waves()
	workers, working := errgroup.WithContext(ctx)
	r.queue = newQueue(working, tasks, len(all), lateWave(all), r.Wait) // a worker that fails ends the others' waits
	defer r.queue.close()
	for range min(replayParallel, max(len(tasks), 1)) {
		workers.Go(func() error { return r.work(working) })
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := r.reunite(ctx); err != nil {
		return err
	}
	return r.prune(ctx)
}

// tasks are the selected objects, and how many there are in each wave.
func (r *replay) tasks(entries []Entry) ([]*task, Replayed) {
	all := waves()
	var result Replayed
	for _, w := range all {
		result.Waves = append(result.Waves, WaveTally{Name: w.name})
	}
	var tasks []*task
	var bytes int64
	for i := range entries {
		entry := &entries[i]
		t := &task{Entry: entry, there: r.transform.key(entry.Key()), wave: waveOf(all, entry.Group, entry.Resource)}
		tasks = append(tasks, t)
		result.Objects++
		result.Waves[t.wave].Objects++
		bytes += entry.Size
	}
	r.Progress.Total(bytes, int64(result.Objects))
	return tasks, result
}

// work brings back one object after the other.
func (r *replay) work(ctx context.Context) error {
	for {
		t, gaveUp := r.queue.next(ctx)
		if t == nil {
			return ctx.Err()
		}
		if gaveUp && errors.Is(t.cause, errUnanswered) {
			t.insists, gaveUp = true, false
			r.note(Changed, t.Key(), fmt.Sprintf("created although nothing answers for it after %s: objects that it is asked about may be refused", r.Wait))
		}
		if gaveUp {
			r.lose(t, reasonOf(t.cause), fmt.Sprintf("not taken within %s: %s", r.Wait, refusal(t.cause)))
			continue
		}
		if err := r.one(ctx, t); err != nil {
			return err
		}
	}
}

// settle ends the work at an object.
func (r *replay) settle(t *task, outcome Outcome) {
	r.Progress.Add(t.Size, 1)
	r.queue.settle(t, outcome)
}

// passOver settles an object that is not for another cluster.
func (r *replay) passOver(t *task, reason string) {
	r.mu.Lock()
	r.reasons[reason]++
	r.mu.Unlock()
	r.settle(t, Outcome{Passed, ByRule, reason})
}

// lose settles an object that does not come back.
func (r *replay) lose(t *task, reason Reason, text string) {
	r.note(Lost, t.Key(), text)
	r.settle(t, Outcome{Failed, reason, text})
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

// finish counts the outcomes.
func (r *replay) finish(tasks []*task, result Replayed) Replayed {
	counters := map[Result]*int{
		Created: &result.Created, Present: &result.Present, Updated: &result.Updated, Replaced: &result.Replaced, Recreated: &result.Recreated,
		Kept: &result.Kept, Passed: &result.Passed, Failed: &result.Lost,
	}
	result.Outcomes = make([]ObjectOutcome, 0, len(tasks)+len(r.pruned))
	for _, t := range tasks {
		*counters[t.outcome.Result]++
		result.Outcomes = append(result.Outcomes, outcomeLine(t.Key(), t.there, t.outcome))
	}
	result.Pruned = len(r.pruned)
	result.Outcomes = append(result.Outcomes, r.pruned...)
	slices.SortFunc(result.Outcomes, func(a, b ObjectOutcome) int { return a.Key().Compare(b.Key()) })
	for reason, count := range r.reasons {
		result.Exceptions = append(result.Exceptions, Exception{Reason: reason, Count: count})
	}
	slices.SortFunc(result.Exceptions, func(a, b Exception) int { return strings.Compare(a.Reason, b.Reason) })
	if more := r.notes - maxNotes; more > 0 {
		r.Report(Note{Weight: Info, Subject: "objects", Text: fmt.Sprintf("%d more notes like these; the outcomes are whole", more)})
	}
	return result
}

// load reads a captured object, as it is when no replay holds it.
func (r *replay) load(ctx context.Context, entry Entry) (Object, error) {
	object, err := r.read(ctx, entry)
	if err != nil {
		return nil, err
	}
	object = unheld(object)
	return object, entry.names(object) // what holds it could say that it is another one
}
