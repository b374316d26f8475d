package orchestrator

import (
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

// randomPlan is a plan, what its tasks meet, and where its processes lose their lease.
type randomPlan struct {
	steps   []randomStep
	policy  string // of all steps: then the end does not depend on what comes first
	deaths  []int  // the run's process loses it after so many events; then the next one
	trouble map[string][]error
}

type randomStep struct {
	id, uses string
	needs    []int
	never    bool // its condition is false
}

func drawPlan(t *rapid.T) randomPlan {
	p := randomPlan{trouble: map[string][]error{}}
	p.policy = rapid.SampledFrom([]string{"stop", "continue", "undo", "pause"}).Draw(t, "policy")
	for i := range rapid.IntRange(1, 7).Draw(t, "steps") {
		s := randomStep{id: fmt.Sprintf("s%d", i), uses: rapid.SampledFrom([]string{"touch", "touch", "touch-each", "ask"}).Draw(t, "uses")}
		for need := range i {
			if rapid.IntRange(0, 2).Draw(t, "need") == 0 {
				s.needs = append(s.needs, need)
			}
		}
		s.never = rapid.IntRange(0, 9).Draw(t, "never") == 0
		p.steps = append(p.steps, s)
		for _, task := range s.tasks() {
			if s.uses != "ask" && rapid.IntRange(0, 4).Draw(t, "trouble") == 0 {
				p.trouble[task] = rapid.SliceOfN(rapid.SampledFrom([]error{transient(), transient(), invalid()}), 1, 3).Draw(t, "errors")
			}
		}
	}
	p.deaths = rapid.SliceOfN(rapid.IntRange(1, 25), 0, 4).Draw(t, "deaths")
	return p
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

// reaper takes the run away from its process after a number of events, and approves what is asked.
type reaper struct {
	deaf
	t      *rapid.T
	client *clientv3.Client
	run    string
	store  *journal.Store
	mu     sync.Mutex
	left   []int
	seen   int
	asks   map[string]bool // steps that are still to be decided on
}

func (r *reaper) Journaled(event journal.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if event.Type == StepIntent && r.asks[event.Step] {
		r.asks[event.Step] = false
		c := command(VerbApprove, event.Step)
		c.As = "lead"
		if err := r.store.Request(context.Background(), r.run, c); err != nil {
			r.t.Error(err)
		}
	}
	if r.seen++; len(r.left) == 0 || r.seen < r.left[0] {
		return
	}
	r.left, r.seen = r.left[1:], 0
	if _, err := r.client.Delete(context.Background(), "/muster/v1/runs/"+r.run+"/owner"); err != nil {
		r.t.Error(err)
	}
}

// TestRandom runs random plans whose tasks fail and whose processes lose their run in the middle, and
// resumes each until it has ended.
func TestRandom(t *testing.T) {
	c := etcd.Need(t, 1)
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() // every answer was waited for
	config := external(c, io.Discard)
	store, err := journal.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() // every answer was waited for
	base := t.TempDir()
	var runs, steps, deaths atomic.Int64
	wanted := randomSteps(t)
	for steps.Load() < wanted {
		rapid.Check(t, func(rt *rapid.T) {
			p := drawPlan(rt)
			run := fmt.Sprintf("run-%d", runs.Add(1))
			w := newWorld(filepath.Join(base, run))
			if err := os.Mkdir(w.dir, 0o700); err != nil {
				rt.Fatal(err)
			}
			for task, errs := range p.trouble {
				w.trouble[task] = slices.Clone(errs)
			}
			steps.Add(int64(len(p.steps)))
			watch := &reaper{t: rt, client: client, run: run, store: store, left: slices.Clone(p.deaths), asks: map[string]bool{}}
			for _, s := range p.steps {
				watch.asks[s.id] = s.uses == "ask"
			}
			r := NewRunner(Config{Store: store, Definitions: w.definitions(), Observer: watch, Log: config.Log, Now: time.Now})
			deaths.Add(int64(playRandom(rt, r, w, p, run)))
			if err := store.Delete(context.Background(), run); err != nil {
				rt.Fatal(err)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d runs of %d steps, taken from their process %d times", runs.Load(), steps.Load(), deaths.Load())
}

func playRandom(t *rapid.T, r *Runner, w *world, p randomPlan, run string) (deaths int) {
	plan, err := planOf(w.definitions(), p.yaml()...)
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.Start(context.Background(), Request{ID: run, Plan: plan})
	for tries := 0; ; tries++ {
		if tries > 60 {
			t.Fatalf("it does not end: %v", err)
		}
		if fault.Is(err, fault.Busy) || fault.Is(err, fault.Denied) { // it was taken away
			deaths++
			checkUnfinished(t, w, p, run)
			report, err = r.Resume(context.Background(), run)
			if fault.Is(err, fault.Exists) { // it was taken away after its last event
				break
			}
			continue
		}
		if err == nil || report != nil && report.State == RunStateUndone {
			break
		}
		if p.policy == "undo" && report.State != RunStateUndone {
			t.Fatalf("with onFailure: undo it is %s: %v", report.State, err)
		}
		var interrupted *Interrupted
		if p.policy == "pause" && !errors.As(err, &interrupted) || p.policy != "pause" && report.State != RunStateFailed {
			t.Fatalf("with onFailure: %s it is %s: %v", p.policy, report.State, err)
		}
		report, err = r.Resume(context.Background(), run)
	}
	report, err = r.Report(context.Background(), run)
	if err != nil {
		t.Fatal(err)
	}
	checkEnd(t, w, p, run, report)
	return deaths
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
			if w.position("verify "+task) >= 0 && w.position("undo "+task) < 0 {
				t.Fatalf("%s was not taken back", task)
			}
			for _, need := range s.needs {
				for _, needed := range p.steps[need].tasks() {
					if undone := w.position("undo " + needed); undone >= 0 && undone < w.position("undo "+task) {
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
