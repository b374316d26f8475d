package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/testenv/etcd"
)

// fixture is a run as a program of an earlier format wrote it: testdata/journal, kept for ever.
type fixture struct {
	Header json.RawMessage   `json:"header"`
	Frozen json.RawMessage   `json:"frozen"`
	Events []json.RawMessage `json:"events"`
}

// TestJournalsOfEarlierFormatsGoOn resumes a run of each earlier format, cut off after each of its
// events: it ends, and what was done before is not done again.
func TestJournalsOfEarlierFormatsGoOn(t *testing.T) {
	c := etcd.Need(t, 1)
	paths, err := filepath.Glob("testdata/journal/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f fixture
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= len(f.Events); n++ {
			t.Run(fmt.Sprintf("%s/%d", filepath.Base(path), n), func(t *testing.T) {
				w := newWorld(t.TempDir())
				done := f.write(t, c, w, n)
				r := runnerOn(t, external(c, io.Discard), w)
				report, err := r.Resume(t.Context(), "run-1")
				if err != nil || report.State != RunStateCompleted {
					t.Fatalf("%+v, %v", report, err)
				}
				want := []string{"run-1-each-a", "run-1-each-b", "run-1-each-c", "run-1-first", "run-1-last"}
				if effects := w.effects(t); !slices.Equal(effects, want) {
					t.Errorf("the world holds %v", effects)
				}
				for _, task := range done {
					if w.count("do "+task) > 0 {
						t.Errorf("%s was verified, and done again", task)
					}
				}
			})
		}
	}
}

// write puts the first n events into etcd, and what they tell of into the world. It returns the tasks
// that are verified by then.
func (f fixture) write(t *testing.T, c *etcd.Cluster, w *world, n int) (done []string) {
	t.Helper()
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() // every answer was waited for
	put := func(key, value string) {
		if _, err := client.Put(t.Context(), "/muster/v1/runs/run-1/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	put("header", string(f.Header))
	put("frozen/000000", string(f.Frozen))
	put("sequence", fmt.Sprint(n))
	for i, raw := range f.Events[:n] {
		put(fmt.Sprintf("events/%020d", i+1), string(raw))
		var event journal.Event
		if err := json.Unmarshal(raw, &event); err != nil {
			t.Fatal(err)
		}
		task := taskOf(&Run{Step: event.Step, Item: event.Item})
		switch event.Type {
		case StepReceipt:
			if err := os.WriteFile((&touch{world: w}).effect(&Run{ID: "run-1", Step: event.Step, Item: event.Item}), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		case StepVerified:
			done = append(done, task)
		}
	}
	t.Cleanup(func() {
		store, err := journal.Open(context.Background(), external(c, io.Discard))
		if err == nil {
			err = store.Delete(context.Background(), "run-1")
			_ = store.Close()
		}
		if err != nil {
			t.Error(err)
		}
	})
	return done
}
