package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/testenv/etcd"
)

// randomSteps is how many steps TestRandom runs in all; `make crash` asks for more.
func randomSteps(t *testing.T) int64 {
	text := os.Getenv("MUSTER_RANDOM_STEPS")
	if text == "" {
		return 1000
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// randomPlan is a plan, what its tasks meet, where its processes lose their lease, and when it is cancelled.
type randomPlan struct {
	steps   []randomStep
	policy  string // of all steps: then the end does not depend on what comes first
	deaths  []int  // the run's process loses it after so many events; then the next one
	trouble map[string][]error
	late    map[string][]error // after the task's effect

	verb string // cancel or undo; empty when nobody asks
	when int    // it is asked after so many events; 0 means when the run stands still
}

type randomStep struct {
	id, uses string
	needs    []int
	never    bool // its condition is false
}

func drawPlan(t *rapid.T) randomPlan {
	p := randomPlan{trouble: map[string][]error{}, late: map[string][]error{}}
	p.policy = rapid.SampledFrom([]string{"stop", "continue", "undo", "pause"}).Draw(t, "policy")
	for i := range rapid.IntRange(1, 15).Draw(t, "steps") {
		s := randomStep{id: fmt.Sprintf("s%d", i), uses: rapid.SampledFrom([]string{"touch", "touch", "touch-each", "ask"}).Draw(t, "uses")}
		for need := range i {
			if rapid.IntRange(0, 2).Draw(t, "need") == 0 {
				s.needs = append(s.needs, need)
			}
		}
		s.never = rapid.IntRange(0, 9).Draw(t, "never") == 0
		p.steps = append(p.steps, s)
		for _, task := range s.tasks() {
			if s.uses != "ask" {
				p.meets(t, task)
			}
		}
	}
	p.deaths = rapid.SliceOfN(rapid.IntRange(1, 25), 0, 4).Draw(t, "deaths")
	p.verb = rapid.SampledFrom([]string{"", "", VerbCancel, VerbUndo}).Draw(t, "verb")
	if p.verb != "" {
		p.when = rapid.IntRange(0, 30).Draw(t, "when")
	}
	return p
}

// meets draws the trouble of one task.
func (p randomPlan) meets(t *rapid.T, task string) {
	if rapid.IntRange(0, 4).Draw(t, "trouble") == 0 {
		p.trouble[task] = rapid.SliceOfN(rapid.SampledFrom([]error{transient(), transient(), invalid()}), 1, 3).Draw(t, "errors")
	}
	if rapid.IntRange(0, 4).Draw(t, "late") == 0 {
		p.late[task] = []error{rapid.SampledFrom([]error{transient(), invalid()}).Draw(t, "late error")}
	}
	if rapid.IntRange(0, 5).Draw(t, "trouble of its undo") == 0 { // once: two in one undo are too many for it
		p.trouble[rapid.SampledFrom([]string{"undo ", "abandon "}).Draw(t, "call")+task] = []error{transient()}
	}
}

func (s randomStep) tasks() []string {
	if s.uses == "touch-each" {
		return []string{s.id + "/a", s.id + "/b", s.id + "/c"}
	}
	return []string{s.id}
}

func (p randomPlan) yaml() []string {
	var lines []string
	for _, s := range p.steps {
		var needs []string
		for _, need := range s.needs {
			needs = append(needs, p.steps[need].id)
		}
		line := fmt.Sprintf("id: %s, uses: %s, needs: [%s], onFailure: %s, retry: {attempts: 2, backoff: 1ms}", s.id, s.uses, strings.Join(needs, ", "), p.policy)
		if s.never {
			line += ", when: 'false'"
		}
		lines = append(lines, strings.ReplaceAll(line, ", needs: []", ""))
	}
	return lines
}

// effects are what stands in the world when everything is done.
func (p randomPlan) effects(run string) []string {
	names := []string{}
	for _, s := range p.steps {
		if s.never || s.uses == "ask" {
			continue
		}
		for _, task := range s.tasks() {
			names = append(names, run+"-"+strings.ReplaceAll(task, "/", "-"))
		}
	}
	slices.Sort(names)
	return names
}

// reached are the effects of the tasks that have made them.
func (p randomPlan) reached(w *world, run string) []string {
	names := []string{}
	for _, s := range p.steps {
		for _, task := range s.tasks() {
			if w.count("made "+task) > 0 {
				names = append(names, run+"-"+strings.ReplaceAll(task, "/", "-"))
			}
		}
	}
	slices.Sort(names)
	return names
}

// reaper takes the run away from its process after a number of events, approves what is asked, and
// cancels the run.
type reaper struct {
	deaf
	t      *rapid.T
	client *clientv3.Client
	run    string
	store  *journal.Store
	plan   randomPlan
	mu     sync.Mutex
	left   []int
	seen   int
	all    int
	asks   map[string]bool // steps that are still to be decided on
}

func (r *reaper) Journaled(event journal.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if event.Type == StepIntent && r.asks[event.Step] {
		r.asks[event.Step] = false
		c := command(VerbApprove, event.Step)
		c.As = "lead"
		r.request(c)
	}
	if r.all++; r.plan.verb != "" && r.all == r.plan.when {
		r.request(command(r.plan.verb, ""))
	}
	if r.seen++; len(r.left) == 0 || r.seen < r.left[0] {
		return
	}
	r.left, r.seen = r.left[1:], 0
	if _, err := r.client.Delete(context.Background(), "/muster/v1/runs/"+r.run+"/owner"); err != nil {
		r.t.Error(err)
	}
}

func (r *reaper) request(c journal.Command) {
	if err := r.store.Request(context.Background(), r.run, c); err != nil {
		r.t.Error(err)
	}
}

// randomWorkers is how many plans are played side by side: a run mostly waits for its journal.
const randomWorkers = 10

// compactEvery is after how many runs etcd forgets their history, which slows it otherwise.
const compactEvery = 200

// randomTest plays random plans until they had enough steps.
type randomTest struct {
	client *clientv3.Client
	store  *journal.Store
	config journal.Config
	base   string
	wanted int64
	failed atomic.Bool

	runs, steps, deaths, cancels atomic.Int64
}

// TestRandom runs random plans whose tasks fail, before and after they made something, whose processes
// lose their run in the middle, and which are cancelled; it resumes each until it has ended.
func TestRandom(t *testing.T) {
	c := etcd.Need(t, 1)
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() // every answer was waited for
	r := &randomTest{client: client, config: external(c, io.Discard), base: t.TempDir(), wanted: randomSteps(t)}
	if r.store, err = journal.Open(t.Context(), r.config); err != nil {
		t.Fatal(err)
	}
	defer r.store.Close() // every answer was waited for
	t.Run("plans", func(t *testing.T) {
		for i := range randomWorkers {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				for r.steps.Load() < r.wanted && !t.Failed() {
					rapid.Check(t, r.play)
				}
			})
		}
	})
	t.Logf("%d runs of %d steps, taken from their process %d times, cancelled %d times", r.runs.Load(), r.steps.Load(), r.deaths.Load(), r.cancels.Load())
}

// play plays one plan. When there were enough it does nothing, unless a failure is being made smaller.
func (r *randomTest) play(t *rapid.T) {
	if r.steps.Load() >= r.wanted && !r.failed.Load() {
		return
	}
	defer func() {
		if t.Failed() {
			r.failed.Store(true)
		}
	}()
	p := drawPlan(t)
	number := r.runs.Add(1)
	run := fmt.Sprintf("run-%d", number)
	w := newWorld(filepath.Join(r.base, run))
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(w.dir) // the test's folder goes anyway
	for task, errs := range p.trouble {
		w.trouble[task] = slices.Clone(errs)
	}
	for task, errs := range p.late {
		w.late[task] = slices.Clone(errs)
	}
	r.steps.Add(int64(len(p.steps)))
	watch := &reaper{t: t, client: r.client, run: run, store: r.store, plan: p, left: slices.Clone(p.deaths), asks: map[string]bool{}}
	for _, s := range p.steps {
		watch.asks[s.id] = s.uses == "ask"
	}
	played := &randomRun{
		T: t, world: w, plan: p, id: run,
		runner: NewRunner(Config{Store: r.store, Definitions: w.definitions(), Observer: watch, Log: r.config.Log, Now: time.Now}),
	}
	played.untilItEnds()
	r.deaths.Add(int64(played.deaths))
	r.cancels.Add(int64(played.cancels))
	if err := r.store.Delete(context.Background(), run); err != nil {
		t.Fatal(err)
	}
	if number%compactEvery == 0 {
		r.compact(t)
	}
}

func (r *randomTest) compact(t *rapid.T) {
	now, err := r.client.Get(context.Background(), "/")
	if err == nil {
		_, err = r.client.Compact(context.Background(), now.Header.Revision)
	}
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // another worker was faster
		t.Fatal(err)
	}
}

// randomRun is one run of a random plan.
type randomRun struct {
	*rapid.T
	world  *world
	plan   randomPlan
	id     string
	runner *Runner

	deaths, cancels int
	asked           bool // a run that stood still was cancelled
}

func (r *randomRun) untilItEnds() {
	plan, err := planOf(r.world.definitions(), r.plan.yaml()...)
	if err != nil {
		r.Fatal(err)
	}
	report, err := r.runner.Start(context.Background(), Request{ID: r.id, Plan: plan})
	for tries := 0; !r.ended(report, err); tries++ {
		if tries > 200 {
			r.Fatalf("it does not end: %v", err)
		}
		report, err = r.goOn()
	}
	report, err = r.runner.Report(context.Background(), r.id)
	if err != nil {
		r.Fatal(err)
	}
	checkEnd(r.T, r.world, r.plan, r.id, report)
	r.checkEvents(report.State)
}

// ended reports whether the run has come to its end, and checks where it stands if not.
func (r *randomRun) ended(report *Report, err error) bool {
	if fault.Is(err, fault.Exists) { // it was taken away after its last event
		return true
	}
	if fault.Is(err, fault.Busy) || fault.Is(err, fault.Denied) { // it was taken away
		if strings.Contains(err.Error(), "cancelled") {
			r.Fatalf("it lost its run, and says: %v", err)
		}
		r.deaths++
		checkUnfinished(r.T, r.world, r.plan, r.id)
		return false
	}
	if report == nil {
		r.Fatal(err)
	}
	if isFinal(report.State) {
		return true
	}
	var interrupted *Interrupted
	want, is := map[string]string{"pause": RunStateInterrupted, "undo": RunStateUndone}[r.plan.policy], errors.As(err, &interrupted)
	if report.State != cmp.Or(want, RunStateFailed) || is != (want == RunStateInterrupted) {
		r.Fatalf("with onFailure: %s it is %s: %v", r.plan.policy, report.State, err)
	}
	return false
}

// goOn resumes the run that stands still, or cancels it there. When it is cancelled already, nothing is
// done any more.
func (r *randomRun) goOn() (*Report, error) {
	if r.plan.verb != "" && r.plan.when == 0 && !r.asked {
		r.asked = true
		err := r.runner.Command(context.Background(), r.id, command(r.plan.verb, ""))
		if err == nil {
			return r.runner.Report(context.Background(), r.id)
		}
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "being undone") {
			return nil, err
		}
	}
	cancelled, did := r.cancelled(), r.world.countOf("do ")
	report, err := r.runner.Resume(context.Background(), r.id)
	if cancelled && r.world.countOf("do ") > did {
		r.Fatalf("it was cancelled, and something was done: %v", r.world.calls)
	}
	return report, err
}

func (r *randomRun) cancelled() bool {
	return slices.ContainsFunc(r.events(), func(e journal.Event) bool { return e.Type == RunCancelling })
}

func (r *randomRun) events() []journal.Event {
	events, err := r.runner.Store.Events(context.Background(), r.id, 0)
	if err != nil {
		r.Fatal(err)
	}
	return events
}

// checkEvents holds the journal against what must be so: nothing begins or goes on once the run is to
// end, it ends as it was asked, and undo is the mirror of what was done.
func (r *randomRun) checkEvents(state string) {
	want := RunStateCompleted
	m := mirror{first: map[string]int64{}, last: map[string]int64{}, undone: map[string]int64{}}
	for i, event := range r.events() {
		if event.Sequence != int64(i+1) {
			r.Fatalf("event %d has sequence %d", i+1, event.Sequence)
		}
		switch event.Type {
		case StepIntent, RunResumed, RunCompleted:
			if want != RunStateCompleted {
				r.Fatalf("%s %s when it was to be %s", event.Type, event.Step, want)
			}
		case RunCancelling:
			r.cancels++
			if want == RunStateCompleted && r.plan.verb == VerbCancel {
				want = RunStateCancelled
				continue
			}
			want = RunStateUndone
		case RunUndoing:
			want = RunStateUndone
		}
		m.add(event)
	}
	if state != want {
		r.Fatalf("it ended as %s, want %s", state, want)
	}
	if state == RunStateUndone {
		m.check(r.T)
	}
}

// mirror holds, by task, the numbers of its first intent, of its newest intent or receipt, and of its end
// in an undo.
type mirror struct{ first, last, undone map[string]int64 }

func (m mirror) add(event journal.Event) {
	task := taskOf(&Run{Step: event.Step, Item: event.Item})
	switch event.Type {
	case StepIntent, StepReceipt:
		if m.first[task] == 0 {
			m.first[task] = event.Sequence
		}
		m.last[task] = event.Sequence
	case StepUndone:
		m.undone[task] = event.Sequence
	}
}

// check wants everything that began to be taken back, and what began after something else was done to be
// taken back before it.
func (m mirror) check(t *rapid.T) {
	for task := range m.first {
		if m.undone[task] == 0 {
			t.Fatalf("%s began, and was not taken back", task)
		}
		for other := range m.first {
			if m.last[other] < m.first[task] && m.undone[other] < m.undone[task] {
				t.Fatalf("%s was taken back before %s, which began after it", other, task)
			}
		}
	}
}

// checkUnfinished holds while nothing is at work: nothing stands in the world that the plan would not
// put there.
func checkUnfinished(t *rapid.T, w *world, p randomPlan, run string) {
	for _, effect := range effectsOf(t, w) {
		if !slices.Contains(p.effects(run), effect) {
			t.Fatalf("the world holds %s", effect)
		}
	}
}

func checkEnd(t *rapid.T, w *world, p randomPlan, run string, report *Report) {
	want := p.effects(run)
	switch report.State {
	case RunStateCompleted:
	case RunStateCancelled:
		want = p.reached(w, run)
	case RunStateUndone:
		want = []string{}
		checkMirror(t, w, p)
	default:
		t.Fatalf("it ended as %s", report.State)
	}
	if effects := effectsOf(t, w); !slices.Equal(effects, want) {
		t.Fatalf("%s, and the world holds %v, want %v", report.State, effects, want)
	}
	for _, s := range p.steps {
		for _, task := range s.tasks() {
			if made := w.count("made " + task); made > 1 {
				t.Fatalf("%s was done %d times", task, made)
			}
			if s.never && w.count("do "+task) > 0 {
				t.Fatalf("%s was done though its condition is false", task)
			}
			for _, need := range s.needs {
				checkOrder(t, w, p.steps[need], task)
			}
		}
	}
}

// checkOrder wants everything of a needed step to be made before the task is tried first.
func checkOrder(t *rapid.T, w *world, need randomStep, task string) {
	first := w.position("do " + task)
	if first < 0 || need.never || need.uses == "ask" {
		return
	}
	for _, needed := range need.tasks() {
		if made := w.position("made " + needed); made < 0 || made > first {
			t.Fatalf("%s began before %s was done: %v", task, needed, w.calls)
		}
	}
}

// checkMirror wants undo to go from the newest to the oldest: a step is taken back before any step that
// it needs, and nothing is left out.
func checkMirror(t *rapid.T, w *world, p randomPlan) {
	for _, s := range p.steps {
		for _, task := range s.tasks() {
			if s.uses != "ask" && w.position("do "+task) >= 0 && w.removed(task) < 0 {
				t.Fatalf("%s was not taken back", task)
			}
			for _, need := range s.needs {
				for _, needed := range p.steps[need].tasks() {
					if undone := w.removed(needed); undone >= 0 && undone < w.removed(task) {
						t.Fatalf("%s was taken back before %s, which needs it", needed, task)
					}
				}
			}
		}
	}
}

func effectsOf(t *rapid.T, w *world) []string {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
