package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// TestMain is also the process that other tests kill or stop: see crash_test.go.
func TestMain(m *testing.M) {
	if dir := os.Getenv("MUSTER_TEST_CRASH_DIR"); dir != "" {
		os.Exit(crashChild(dir, os.Getenv("MUSTER_TEST_CRASH_CASE")))
	}
	if dir := os.Getenv("MUSTER_TEST_FENCED_DIR"); dir != "" {
		os.Exit(fencedChild(dir))
	}
	if dir := os.Getenv("MUSTER_TEST_COMPACT_DIR"); dir != "" {
		os.Exit(compactChild(dir))
	}
	if dir := os.Getenv("MUSTER_TEST_FULL_DIR"); dir != "" {
		os.Exit(fullDiskChild(dir))
	}
	os.Exit(m.Run())
}

// world is what the steps of these tests change: a folder of effects. It remembers every call.
type world struct {
	dir string

	mu    sync.Mutex
	calls []string
	// trouble is what Do of a task meets, in order; then it succeeds.
	trouble map[string][]error
	// late is what Do of a task meets after its effect, in order.
	late map[string][]error
	// hook is called in Do of a task, before its effect, and, named "undo <task>", in its Undo.
	hook map[string]func(ctx context.Context) error
	// progress is called in Do of a task after its effect.
	progress map[string]func(Progress)
}

func newWorld(dir string) *world {
	return &world{
		dir: dir, trouble: map[string][]error{}, late: map[string][]error{},
		hook: map[string]func(context.Context) error{}, progress: map[string]func(Progress){},
	}
}

func (w *world) called(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, text)
}

func (w *world) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, call := range w.calls {
		if call == text {
			n++
		}
	}
	return n
}

func (w *world) position(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Index(w.calls, text)
}

// countOf is how many calls begin with a text.
func (w *world) countOf(begin string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, call := range w.calls {
		if strings.HasPrefix(call, begin) {
			n++
		}
	}
	return n
}

// removed is where a task was first taken back, from its receipt or without one; -1 when it was not.
func (w *world) removed(task string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.IndexFunc(w.calls, func(call string) bool { return call == "undo "+task || call == "abandon "+task })
}

func (w *world) next(task string) error { return w.pop(w.trouble, task) }

func (w *world) pop(queues map[string][]error, task string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	queue := queues[task]
	if len(queue) == 0 {
		return nil
	}
	queues[task] = queue[1:]
	return queue[0]
}

// effects are the names of what stands in the world.
func (w *world) effects(t testing.TB) []string {
	t.Helper()
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

// touch is a step with an effect whose name derives from run, step and item: a repeat finds it.
type touch struct {
	Text string `yaml:"text,omitempty"`

	world *world
}

func taskOf(run *Run) string { return strings.TrimSuffix(run.Step+"/"+run.Item, "/") }

func (s *touch) effect(run *Run) string {
	return filepath.Join(s.world.dir, strings.ReplaceAll(run.ID+"-"+taskOf(run), "/", "-"))
}

func (s *touch) Check(_ context.Context, run *Run) error {
	s.world.called("check " + taskOf(run))
	if s.Text == "refuse" {
		return fault.Newf("check", fault.Denied, taskOf(run), "refused")
	}
	return nil
}

func (s *touch) Do(ctx context.Context, run *Run, _ Receipt) (Receipt, error) {
	s.world.called("do " + taskOf(run))
	if hook := s.world.hook[taskOf(run)]; hook != nil {
		if err := hook(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.world.next(taskOf(run)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.effect(run), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		s.world.called("found " + taskOf(run))
	} else if err != nil {
		return nil, err
	} else if err := f.Close(); err != nil {
		return nil, err
	} else {
		s.world.called("made " + taskOf(run))
	}
	if err := s.world.pop(s.world.late, taskOf(run)); err != nil {
		return nil, err
	}
	if progress := s.world.progress[taskOf(run)]; progress != nil {
		progress(run.Progress)
		return Receipt(`{}`), nil
	}
	run.Progress.Add(0, 1)
	return Receipt(fmt.Sprintf(`{"effect":%q}`, filepath.Base(s.effect(run)))), nil
}

func (s *touch) Verify(_ context.Context, run *Run, _ Receipt) error {
	s.world.called("verify " + taskOf(run))
	if _, err := os.Stat(s.effect(run)); err != nil {
		return fault.New("verify", fault.Corrupt, taskOf(run), err)
	}
	return nil
}

func (s *touch) Undo(ctx context.Context, run *Run, _ Receipt) error {
	return s.remove(ctx, run, "undo "+taskOf(run))
}

func (s *touch) Abandon(ctx context.Context, run *Run) error {
	return s.remove(ctx, run, "abandon "+taskOf(run))
}

func (s *touch) remove(ctx context.Context, run *Run, call string) error {
	s.world.called(call)
	if hook := s.world.hook[call]; hook != nil {
		if err := hook(ctx); err != nil {
			return err
		}
	}
	if err := s.world.next(call); err != nil {
		return err
	}
	if err := os.Remove(s.effect(run)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *touch) Left(receipt Receipt) string {
	var r struct{ Effect string }
	_ = json.Unmarshal(receipt, &r) // a test's own
	return "rm " + r.Effect
}

// fail is a step that never works.
type fail struct{ touch }

func (s *fail) Do(context.Context, *Run, Receipt) (Receipt, error) {
	return nil, fault.Newf("fail", fault.Invalid, "", "it always does")
}

// ask is a step that people decide on.
type ask struct{ touch }

func (s *ask) Do(ctx context.Context, run *Run, _ Receipt) (Receipt, error) {
	decision, err := run.Decision(ctx)
	if err != nil {
		return nil, err
	}
	if decision.Verb == VerbReject {
		return nil, fault.Newf("decide", fault.Denied, run.Step, "rejected: %s", decision.Reason)
	}
	return json.Marshal(decision.Values)
}

func (s *ask) Verify(context.Context, *Run, Receipt) error { return nil }

func (s *ask) Undo(context.Context, *Run, Receipt) error { return nil }

func (s *ask) Abandon(context.Context, *Run) error { return nil }

func (s *ask) Accept(decision journal.Command) error {
	if decision.As != "lead" {
		return fault.Newf("decide", fault.Denied, decision.As, "only lead decides")
	}
	return nil
}

// touchEach is touch on three items.
type touchEach struct{ touch }

func (s *touchEach) Items(context.Context, *Run) ([]string, error) {
	return []string{"a", "b", "c"}, nil
}

// touchLarge is touch on many items, with receipts of half a mebibyte.
type touchLarge struct{ touch }

func (s *touchLarge) Items(context.Context, *Run) ([]string, error) {
	items := make([]string, 0, largeItems)
	for i := range largeItems {
		items = append(items, fmt.Sprintf("item-%03d", i))
	}
	return items, nil
}

func (s *touchLarge) Do(ctx context.Context, run *Run, prior Receipt) (Receipt, error) {
	if _, err := s.touch.Do(ctx, run, prior); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"large": strings.Repeat("x", 512<<10)})
}

const largeItems = 150

func (w *world) definitions() []Definition {
	all := []plans.Purpose{plans.Capture, plans.Recover, plans.Drill, plans.Migrate}
	return []Definition{
		{ID: "touch", Summary: "touch a file", Purposes: all, New: func() Step { return &touch{world: w} }},
		{ID: "touch-each", Summary: "touch three files", Purposes: all, New: func() Step { return &touchEach{touch{world: w}} }},
		{ID: "touch-large", Summary: "touch many files, and leave large receipts", Purposes: all, New: func() Step { return &touchLarge{touch{world: w}} }},
		{ID: "fail", Summary: "fail for good", Purposes: all, New: func() Step { return &fail{touch{world: w}} }},
		{ID: "ask", Summary: "ask somebody", Purposes: all, Waits: true, New: func() Step { return &ask{touch{world: w}} }},
		{ID: "touch-layer", Summary: "touch a file of a layer", Purposes: all, Layer: "files", New: func() Step { return &touch{world: w} }},
	}
}

// deaf is an Observer that does nothing.
type deaf struct{}

func (deaf) Journaled(journal.Event)  {}
func (deaf) Progressed(Update)        {}
func (deaf) Replayed([]journal.Event) {}

func openRunner(ctx context.Context, dir string, w *world) (*Runner, *journal.Store, error) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	store, err := journal.Open(ctx, journal.Config{Directory: dir, Owner: fmt.Sprintf("test/%d", os.Getpid()), Log: log})
	if err != nil {
		return nil, nil, err
	}
	return NewRunner(Config{Store: store, Definitions: w.definitions(), Observer: deaf{}, Log: log, Now: time.Now}), store, nil
}

// newRunner is a runner with a journal and a world of its own.
func newRunner(t *testing.T) (*Runner, *world) {
	t.Helper()
	w := newWorld(t.TempDir())
	r, store, err := openRunner(t.Context(), filepath.Join(t.TempDir(), "journal"), w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, w
}

// planOf is a checked plan of the given steps, in YAML flow style, one a line.
func planOf(definitions []Definition, steps ...string) (*plans.Checked, error) {
	text := "apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: p}\nspec:\n  purpose: drill\n  steps:\n"
	for _, step := range steps {
		text += "    - {" + step + "}\n"
	}
	set, err := plans.Read("plan.yaml", strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	return plans.CheckSteps(set, "p", Vocabulary(definitions))
}

func request(t testing.TB, w *world, steps ...string) Request {
	t.Helper()
	plan, err := planOf(w.definitions(), steps...)
	if err != nil {
		t.Fatal(err)
	}
	return Request{ID: "run-1", Plan: plan}
}
