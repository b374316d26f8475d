package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// seen is what a watch in the background told.
type seen struct {
	events []journal.Event
	views  []*View
	last   *View
	err    error
}

// watched follows run-1 as another process would, over a connection of its own.
func watched(ctx context.Context, t *testing.T, dir string, w *world, stay bool, each func(*View)) <-chan seen {
	t.Helper()
	r, store, err := openRunner(ctx, dir, w)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan seen, 1)
	go func() {
		var s seen
		s.last, s.err = r.Watch(ctx, "run-1", Watching{
			Stay:  stay,
			Event: func(e journal.Event) error { s.events = append(s.events, e); return nil },
			View: func(v *View) error {
				s.views = append(s.views, v)
				if each != nil {
					each(v)
				}
				return nil
			},
		})
		s.err = errors.Join(s.err, store.Close())
		ended <- s
	}()
	return ended
}

// newWatchable is newRunner with the folder of its journal.
func newWatchable(t *testing.T) (*Runner, *world, string) {
	t.Helper()
	w, dir := newWorld(t.TempDir()), filepath.Join(t.TempDir(), "journal")
	r, store, err := openRunner(t.Context(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, w, dir
}

func reportOf(v *View, step string) StepReport {
	for _, s := range v.Report.Steps {
		if s.ID == step {
			return s
		}
	}
	return StepReport{}
}

func TestWatchFollowsARunOfAnotherProcess(t *testing.T) {
	r, w, dir := newWatchable(t)
	finish, ended := begun(t, r, w, "id: before, uses: touch-each", "id: slow, uses: touch, needs: [before]", "id: last, uses: touch, needs: [slow, before]")
	finished := false
	watch := watched(t.Context(), t, dir, w, false, func(v *View) {
		if len(v.Running) == 1 && !finished {
			finished = true
			finish()
		}
	})
	if _, err := ended(); err != nil {
		t.Fatal(err)
	}
	got := <-watch
	if got.err != nil {
		t.Fatal(got.err)
	}
	first := got.views[0]
	if first.Report.State != RunStateRunning || first.Owner == "" || first.Orphan || len(first.Running) != 1 || first.Running[0].Step != "slow" {
		t.Errorf("while it ran: %+v", first)
	}
	if waits := reportOf(first, "last").WaitsFor; !slices.Equal(waits, []string{"slow"}) {
		t.Errorf("last waits for %v", waits)
	}
	if s := reportOf(first, "before"); s.State != TaskVerified || s.Verified != 3 || s.Done.Items != 3 || s.Ended.IsZero() {
		t.Errorf("before: %+v", s)
	}
	if s := reportOf(first, "slow"); s.Started.IsZero() || !s.Ended.IsZero() {
		t.Errorf("slow: %+v", s)
	}
	if last := got.last; last != got.views[len(got.views)-1] || last.Report.State != RunStateCompleted || last.Owner != "" && len(last.Running) > 0 {
		t.Errorf("at the end: %+v", last)
	}
	path := got.last.Report.Critical
	if path == nil || len(path.Steps) != 3 || path.Steps[1].ID != "slow" {
		t.Errorf("critical path: %s", pathText(path))
	}
	events, err := r.Store.Events(t.Context(), "run-1", 0)
	if err != nil || len(events) != len(got.events) {
		t.Errorf("%d events were told, the journal holds %d, %v", len(got.events), len(events), err)
	}
	for i, e := range got.events {
		if e.Sequence != int64(i+1) {
			t.Fatalf("event %d has number %d", i, e.Sequence)
		}
	}
	again, err := r.Watch(t.Context(), "run-1", Watching{}) // it is packed now
	if err != nil || again.Report.State != RunStateCompleted {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestWatchShowsWhatIsPublished(t *testing.T) {
	r, w, dir := newWatchable(t)
	goOn := make(chan struct{})
	w.progress["slow/b"] = func(p Progress) { p.Total(100, 10); p.Add(40, 4); p.Status("copies"); <-goOn }
	ended := make(chan error, 1)
	wanted := request(t, w, "id: slow, uses: touch-each, maxParallel: 2")
	go func() {
		_, err := r.Start(context.WithoutCancel(t.Context()), wanted)
		ended <- err
	}()
	awaitState(t, r, "slow", TaskRunning)
	var told RunningTask
	var pace Pace
	watch := watched(t.Context(), t, dir, w, false, func(v *View) {
		for _, task := range v.Running {
			if task.Item == "b" && task.Done.Bytes > 0 && told.Item == "" {
				told, pace = task, v.Paces["slow"]
				close(goOn)
			}
		}
	})
	got := <-watch
	if err := errors.Join(got.err, <-ended); err != nil {
		t.Fatal(err)
	}
	if told.Done != (Amount{40, 4}) || told.Total != (Amount{100, 10}) || told.Status != "copies" || told.Share != 0.4 || told.BytesPerSecond <= 0 {
		t.Errorf("task: %+v", told)
	}
	if pace.Share < 0.13 || pace.ItemsPerSecond <= 0 {
		t.Errorf("step: %+v", pace)
	}
}

func TestWatchEndsWhereARunStandsStill(t *testing.T) {
	for want, steps := range map[string][]string{
		RunStateFailed:      {"id: bad, uses: fail", "id: after, uses: touch, needs: [bad]"},
		RunStateInterrupted: {"id: bad, uses: fail, onFailure: pause"},
		RunStateUndone:      {"id: good, uses: touch", "id: bad, uses: fail, onFailure: undo, needs: [good]"},
	} {
		r, w := newRunner(t)
		if _, err := r.Start(t.Context(), request(t, w, steps...)); err == nil {
			t.Fatal("it did not fail")
		}
		view, err := r.Watch(t.Context(), "run-1", Watching{})
		if err != nil || view.Report.State != want || view.Last == nil || view.Last.Step != "bad" || view.Last.Kind != "invalid" {
			t.Errorf("%s: %+v, %v", want, view, err)
		}
		if want == RunStateFailed && !slices.Equal(reportOf(view, "after").WaitsFor, []string{"bad"}) {
			t.Errorf("after: %+v", reportOf(view, "after"))
		}
	}
}

func TestWatchStaysWhenAsked(t *testing.T) {
	r, w, dir := newWatchable(t)
	w.trouble["bad"] = []error{invalid()}
	if _, err := r.Start(t.Context(), request(t, w, "id: bad, uses: touch")); err == nil {
		t.Fatal("it did not fail")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed, completed := make(chan struct{}), make(chan struct{})
	state := ""
	watch := watched(ctx, t, dir, w, true, func(v *View) {
		if v.Report.State == state {
			return
		}
		switch state = v.Report.State; state {
		case RunStateFailed:
			close(failed)
		case RunStateCompleted:
			close(completed)
		}
	})
	<-failed
	if _, err := r.Resume(t.Context(), "run-1"); err != nil {
		t.Fatal(err)
	}
	<-completed
	cancel()
	var interrupted *Interrupted
	if got := <-watch; !errors.As(got.err, &interrupted) {
		t.Error(got.err)
	}
}

// TestWatchOfAnOrphan watches a run whose process died, until another one adopts it.
func TestWatchOfAnOrphan(t *testing.T) {
	r, w, dir := newWatchable(t)
	x, err := r.prepare(t.Context(), request(t, w, "id: one, uses: touch"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Store.Create(t.Context(), x.header); err != nil {
		t.Fatal(err)
	}
	owned, err := r.Store.Acquire(t.Context(), "run-1")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	if _, err := owned.Append(t.Context(), journal.Event{Type: RunStarted, Time: now}, journal.Event{Type: StepIntent, Step: "one", Attempt: 1, Time: now}); err != nil {
		t.Fatal(err)
	}
	if err := owned.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	orphan := make(chan struct{})
	watch := watched(t.Context(), t, dir, w, false, func(v *View) {
		if v.Orphan && v.Owner == "" && len(v.Running) == 1 && w.count("do one") == 0 {
			select {
			case <-orphan:
			default:
				close(orphan)
			}
		}
	})
	<-orphan
	if _, err := r.Resume(t.Context(), "run-1"); err != nil {
		t.Fatal(err)
	}
	if got := <-watch; got.err != nil || got.last.Report.State != RunStateCompleted || len(got.last.Report.Pauses) != 1 {
		t.Errorf("%+v, %v", got.last, got.err)
	}
}

// TestWatchTellsWhoHoldsWhatARunNeeds watches a run that was refused what another one works on.
func TestWatchTellsWhoHoldsWhatARunNeeds(t *testing.T) {
	r, w, _ := newWatchable(t)
	x, err := r.prepare(t.Context(), request(t, w, "id: one, uses: touch-layer"))
	if err != nil {
		t.Fatal(err)
	}
	x.plan.Cluster = &plans.Cluster{Metadata: plans.Metadata{Name: "prod"}}
	if err := r.Store.Create(t.Context(), x.header); err != nil {
		t.Fatal(err)
	}
	other := x.header
	other.ID = "run-2"
	if err := r.Store.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"run-1", "run-2"} {
		owned, err := r.Store.Acquire(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		defer owned.Release(t.Context()) //nolint:errcheck // a test's own
		if id == "run-2" {
			if err := owned.Lock(t.Context(), []string{"cluster/prod/files"}, false, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	watcher := &watcher{onlooker: newOnlooker(x)}
	watcher.look(t.Context())
	if v := watcher.view(false); !slices.Equal(v.Blockers, []Blocker{{"cluster/prod/files", "run-2"}}) || v.Trouble != "" {
		t.Errorf("%+v", v)
	}
}

// TestWatchOfManyEvents feeds 150,000 events to what a watch keeps: a view must cost next to nothing
// beside the half second between two, and no event is looked at again.
func TestWatchOfManyEvents(t *testing.T) {
	const items = 50_000
	r, w := newRunner(t)
	x, err := r.prepare(t.Context(), request(t, w, "id: many, uses: touch-each", "id: last, uses: touch, needs: [many]"))
	if err != nil {
		t.Fatal(err)
	}
	o := newOnlooker(x)
	names := make([]string, items)
	for i := range names {
		names[i] = fmt.Sprintf("item-%d", i)
	}
	list, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	see := func(kind, item string, data string) {
		step := ""
		if strings.HasPrefix(kind, "step.") {
			step = "many"
		}
		if err := o.see(journal.Event{Type: kind, Step: step, Item: item, Attempt: 1, Time: at(1), Data: json.RawMessage(data)}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	see(RunStarted, "", "")
	see(StepItems, "", string(list))
	for _, name := range names[:items-100] {
		see(StepIntent, name, "")
		see(StepReceipt, name, "{}")
		see(StepVerified, name, `{"bytes":10}`)
	}
	replayed := time.Since(began)
	began = time.Now()
	const views = 20
	for i := range views {
		see(StepIntent, names[items-1-i], "")
		v := o.view(false)
		if s := reportOf(v, "many"); s.Verified != items-100 || s.Done.Bytes != 10*(items-100) || len(v.Running) != i+1 {
			t.Fatalf("%+v", s)
		}
	}
	each := time.Since(began) / views
	t.Logf("%d events in %s; a view in %s", 3*items, replayed, each)
	if each > viewEvery { // a tenth of it without the race detector
		t.Errorf("a view takes %s", each)
	}
}

func TestMeter(t *testing.T) {
	m := newMeter()
	second := func(n float64, bytes int64) sample {
		return sample{at: at(n), done: Amount{Bytes: bytes}, share: float64(bytes) / 1000}
	}
	if p := m.pace("a", at(0), second(10, 100)); p.BytesPerSecond != 10 || p.Left != 90 {
		t.Errorf("since it began: %+v", p)
	}
	if p := m.pace("a", at(0), second(20, 400)); p.BytesPerSecond != 30 || math.Round(p.Left) != 20 {
		t.Errorf("since the sample before: %+v", p)
	}
	if p := m.pace("a", at(0), second(60, 440)); p.BytesPerSecond != 1 {
		t.Errorf("it got slower: %+v", p)
	}
	if p := m.pace("a", at(60), second(70, 50)); p.BytesPerSecond != 5 {
		t.Errorf("a new attempt: %+v", p)
	}
	if p := m.pace("b", at(70), second(70.1, 1)); p.BytesPerSecond != 0 || p.Left != 0 {
		t.Errorf("too early to tell: %+v", p)
	}
	m.sweep()
	m.pace("b", at(70), second(71, 2))
	m.sweep()
	if _, kept := m.samples["a"]; kept || len(m.samples) != 1 {
		t.Errorf("kept: %v", m.samples)
	}
}

func TestWatchOfNoRun(t *testing.T) {
	r, _ := newRunner(t)
	if _, err := r.Watch(t.Context(), "run-9", Watching{}); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}
