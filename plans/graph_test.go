package plans

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// diamond is listed against its needs on purpose.
func diamond() []Step {
	return []Step{
		{ID: "seal", Uses: "seal-recovery-point", Needs: []string{"machines", "apps"}},
		{ID: "machines", Uses: "capture-machines"},
		{ID: "apps", Uses: "capture-namespaces", Needs: []string{"etcd"}},
		{ID: "etcd", Uses: "snapshot-etcd"},
		{ID: "alone", Uses: "snapshot-etcd"},
	}
}

func TestGraphQueries(t *testing.T) {
	g, err := NewGraph(diamond())
	if err != nil {
		t.Fatal(err)
	}
	done := func(ids ...string) map[string]bool {
		out := map[string]bool{}
		for _, id := range ids {
			out[id] = true
		}
		return out
	}
	for name, pair := range map[string][2][]string{
		"order":             {g.Order(), {"machines", "etcd", "apps", "seal", "alone"}},
		"reverse":           {g.Reverse(), {"alone", "seal", "apps", "etcd", "machines"}},
		"ready at first":    {g.Ready(nil), {"machines", "etcd", "alone"}},
		"ready after etcd":  {g.Ready(done("etcd", "alone")), {"machines", "apps"}},
		"ready for the end": {g.Ready(done("etcd", "alone", "machines", "apps")), {"seal"}},
		"descendants":       {g.Descendants("etcd"), {"seal", "apps"}},
		"ancestors":         {g.Ancestors("seal"), {"machines", "apps", "etcd"}},
		"of a stranger":     {g.Descendants("x"), nil},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: got %v, want %v", name, pair[0], pair[1])
		}
	}
	if want := [][]string{{"machines", "etcd", "alone"}, {"apps"}, {"seal"}}; !reflect.DeepEqual(g.Levels(), want) {
		t.Errorf("levels are %v, want %v", g.Levels(), want)
	}
}

func TestGraphRefuses(t *testing.T) {
	for want, steps := range map[string][]Step{
		`there are two steps "a"`:                              {{ID: "a"}, {ID: "a"}},
		`step "a" needs "b", which does not exist`:             {{ID: "a", Needs: []string{"b"}}},
		`steps wait for each other: a needs a`:                 {{ID: "a", Needs: []string{"a"}}},
		`steps wait for each other: b needs c needs b`:         {{ID: "b", Needs: []string{"c"}}, {ID: "c", Needs: []string{"b"}}},
		`steps wait for each other: y needs z needs y`:         {{ID: "x", Needs: []string{"y"}}, {ID: "y", Needs: []string{"z"}}, {ID: "z", Needs: []string{"y"}}},
		`steps wait for each other: r needs s needs t needs r`: {{ID: "r", Needs: []string{"s"}}, {ID: "s", Needs: []string{"t"}}, {ID: "t", Needs: []string{"r"}}},
	} {
		if _, err := NewGraph(steps); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestGraphDrawings(t *testing.T) {
	steps := append(diamond(), Step{
		ID: "a-step-with-a-name-that-is-far-too-long-for-a-column", Uses: "snapshot-etcd",
		Needs: []string{"alone", "seal", "machines", "apps", "etcd"},
	})
	g, err := NewGraph(steps)
	if err != nil {
		t.Fatal(err)
	}
	var text, dot bytes.Buffer
	if err := errors.Join(g.Text(&text), g.DOT(&dot)); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/graph.txt", text.Bytes())
	golden(t, "testdata/graph.dot", dot.Bytes())
	fitsPage(t, text.String())
	if got, want := dotText("a\"b\\c\nd"), `"a\"b\\c\nd"`; got != want {
		t.Errorf("DOT text is %s, want %s", got, want)
	}
}

// drawSteps draws steps with any needs among them, cycles included.
func drawSteps(t *rapid.T) []Step {
	n := rapid.IntRange(0, 12).Draw(t, "steps")
	steps := make([]Step, n)
	for i := range steps {
		steps[i].ID = fmt.Sprintf("s%d", i)
		for _, need := range rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 2).Draw(t, "needs") {
			steps[i].Needs = append(steps[i].Needs, fmt.Sprintf("s%d", need))
		}
	}
	return steps
}

// closure is the reference: a step reaches itself exactly when it lies on a cycle (Warshall).
func closure(steps []Step) map[[2]string]bool {
	reaches := map[[2]string]bool{}
	for _, step := range steps {
		for _, need := range step.Needs {
			reaches[[2]string{step.ID, need}] = true
		}
	}
	for _, via := range steps {
		for _, from := range steps {
			for _, to := range steps {
				if reaches[[2]string{from.ID, via.ID}] && reaches[[2]string{via.ID, to.ID}] {
					reaches[[2]string{from.ID, to.ID}] = true
				}
			}
		}
	}
	return reaches
}

func TestGraphAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := drawSteps(t)
		reaches := closure(steps)
		cyclic := slices.ContainsFunc(steps, func(s Step) bool { return reaches[[2]string{s.ID, s.ID}] })
		g, err := NewGraph(steps)
		if cyclic {
			checkCycle(t, steps, err)
			return
		}
		if err != nil {
			t.Fatalf("no cycle, yet %v", err)
		}
		checkOrder(t, steps, g)
		for _, step := range steps {
			var ancestors, descendants []string
			for _, other := range steps {
				if reaches[[2]string{step.ID, other.ID}] {
					ancestors = append(ancestors, other.ID)
				}
				if reaches[[2]string{other.ID, step.ID}] {
					descendants = append(descendants, other.ID)
				}
			}
			if got := g.Ancestors(step.ID); !slices.Equal(got, ancestors) {
				t.Fatalf("ancestors of %s: %v, want %v", step.ID, got, ancestors)
			}
			if got := g.Descendants(step.ID); !slices.Equal(got, descendants) {
				t.Fatalf("descendants of %s: %v, want %v", step.ID, got, descendants)
			}
		}
	})
}

// checkCycle wants every step of the path to need the next, and the path to close.
func checkCycle(t *rapid.T, steps []Step, err error) {
	var cycle *CycleError
	if !errors.As(err, &cycle) {
		t.Fatalf("there is a cycle, yet the error is %v", err)
	}
	path := cycle.Path
	if len(path) < 2 || path[0] != path[len(path)-1] {
		t.Fatalf("%v does not close", path)
	}
	for i, id := range path[:len(path)-1] {
		at := slices.IndexFunc(steps, func(s Step) bool { return s.ID == id })
		if !slices.Contains(steps[at].Needs, path[i+1]) {
			t.Fatalf("%v: %s does not need %s", path, id, path[i+1])
		}
	}
}

// checkOrder plays the order through: each step must be ready when its turn comes, and be the first
// of the plan that is.
func checkOrder(t *rapid.T, steps []Step, g *Graph) {
	done := map[string]bool{}
	for _, id := range g.Order() {
		ready := g.Ready(done)
		if len(ready) == 0 || ready[0] != id {
			t.Fatalf("the order continues with %s while %v are ready", id, ready)
		}
		at := slices.IndexFunc(steps, func(s Step) bool { return s.ID == id })
		for _, need := range steps[at].Needs {
			if !done[need] {
				t.Fatalf("%s comes before %s, which it needs", id, need)
			}
		}
		done[id] = true
	}
	if len(done) != len(steps) || len(g.Ready(done)) != 0 {
		t.Fatalf("%d of %d steps are ordered", len(done), len(steps))
	}
}
