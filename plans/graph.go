package plans

import (
	"fmt"
	"slices"
	"strings"
)

// Graph is the directed acyclic graph that the needs of a plan's steps make. It is immutable and
// safe for concurrent use. Wherever steps are free to come in any order, they come in the plan's.
type Graph struct {
	steps      []Step
	index      map[string]int
	needs      [][]int // by step: what it needs, sorted
	dependents [][]int // by step: what needs it, sorted
	order      []int   // topological
}

// CycleError tells that steps wait for each other. Path names them, each needing the next, and ends
// with the one it begins with.
type CycleError struct{ Path []string }

// Error shows the path.
func (e *CycleError) Error() string {
	return "steps wait for each other: " + strings.Join(e.Path, " needs ")
}

// NewGraph makes the graph of a plan's steps. It fails when an ID stands twice, when a needed step
// does not exist, and with a CycleError.
func NewGraph(steps []Step) (*Graph, error) {
	g := &Graph{
		steps: steps, index: make(map[string]int, len(steps)),
		needs: make([][]int, len(steps)), dependents: make([][]int, len(steps)),
	}
	for i, step := range steps {
		if _, taken := g.index[step.ID]; taken {
			return nil, fmt.Errorf("there are two steps %q", step.ID)
		}
		g.index[step.ID] = i
	}
	for i, step := range steps {
		for _, need := range step.Needs {
			n, known := g.index[need]
			if !known {
				return nil, fmt.Errorf("step %q needs %q, which does not exist", step.ID, need)
			}
			g.needs[i] = append(g.needs[i], n)
		}
		slices.Sort(g.needs[i])
		g.needs[i] = slices.Compact(g.needs[i])
		for _, n := range g.needs[i] {
			g.dependents[n] = append(g.dependents[n], i)
		}
	}
	g.sort()
	if len(g.order) < len(steps) {
		return nil, &CycleError{g.cycle()}
	}
	return g, nil
}

// sort fills order: always the first step of the plan whose needs are all placed. Steps of a cycle
// are left out.
func (g *Graph) sort() {
	missing := make([]int, len(g.steps))
	var ready []int // sorted
	for i := range g.steps {
		missing[i] = len(g.needs[i])
		if missing[i] == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		next := ready[0]
		ready = ready[1:]
		g.order = append(g.order, next)
		for _, d := range g.dependents[next] {
			if missing[d]--; missing[d] == 0 {
				at, _ := slices.BinarySearch(ready, d)
				ready = slices.Insert(ready, at, d)
			}
		}
	}
}

// cycle finds one among the steps that sort left out: each of them needs another one of them, so
// that following the first such need must come back to a step it has passed.
func (g *Graph) cycle() []string {
	placed := make([]bool, len(g.steps))
	for _, i := range g.order {
		placed[i] = true
	}
	var path []int
	at := slices.Index(placed, false)
	for !slices.Contains(path, at) {
		path = append(path, at)
		unplaced := slices.IndexFunc(g.needs[at], func(n int) bool { return !placed[n] })
		at = g.needs[at][unplaced]
	}
	return g.ids(append(path[slices.Index(path, at):], at))
}

func (g *Graph) ids(indices []int) []string {
	ids := make([]string, 0, len(indices))
	for _, i := range indices {
		ids = append(ids, g.steps[i].ID)
	}
	return ids
}

// Order lists all steps so that each comes after all it needs.
func (g *Graph) Order() []string { return g.ids(g.order) }

// Reverse lists all steps so that each comes before all it needs: the order to undo them in.
func (g *Graph) Reverse() []string {
	ids := g.Order()
	slices.Reverse(ids)
	return ids
}

// Ready lists the steps that are not done while all they need is.
func (g *Graph) Ready(done map[string]bool) []string {
	var ready []int
	for i, step := range g.steps {
		waits := func(n int) bool { return !done[g.steps[n].ID] }
		if !done[step.ID] && !slices.ContainsFunc(g.needs[i], waits) {
			ready = append(ready, i)
		}
	}
	return g.ids(ready)
}

// Descendants lists the steps that need the given one, directly or through others, in the order of
// the plan; none for a step that does not exist.
func (g *Graph) Descendants(id string) []string { return g.reachable(id, g.dependents) }

// Ancestors lists the steps that the given one needs, directly or through others, in the order of
// the plan; none for a step that does not exist.
func (g *Graph) Ancestors(id string) []string { return g.reachable(id, g.needs) }

func (g *Graph) reachable(id string, next [][]int) []string {
	start, known := g.index[id]
	if !known {
		return nil
	}
	seen := make([]bool, len(g.steps))
	var found []int
	queue := slices.Clone(next[start])
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		if seen[i] {
			continue
		}
		seen[i] = true
		found = append(found, i)
		queue = append(queue, next[i]...)
	}
	slices.Sort(found)
	return g.ids(found)
}

// Levels groups the steps: those of a level need at least one of the level before, and none of
// their own or of a later one.
func (g *Graph) Levels() [][]string {
	level := make([]int, len(g.steps))
	var levels [][]int
	for _, i := range g.order {
		for _, n := range g.needs[i] {
			level[i] = max(level[i], level[n]+1)
		}
		if level[i] == len(levels) {
			levels = append(levels, nil)
		}
		levels[level[i]] = append(levels[level[i]], i)
	}
	out := make([][]string, 0, len(levels))
	for _, members := range levels {
		slices.Sort(members)
		out = append(out, g.ids(members))
	}
	return out
}
