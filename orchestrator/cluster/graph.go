package cluster

import (
	"context"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Graph is what the objects of a recovery point need of each other.
type Graph struct {
	Objects []GraphObject // sorted by key
	index   map[Key]int
}

// GraphObject is one object of a Graph.
type GraphObject struct {
	Key   Key
	Kind  string
	Wave  string      // in which a replay would take it, if nothing held it up
	Left  string      // why a replay would pass it over, empty when it would not
	Needs []Reference // those that the recovery point holds come first; both parts are sorted
	Known int         // how many of Needs the recovery point holds
}

// Graph reads every selected object once.
func (r Recorded) Graph(ctx context.Context, selection Selection) (*Graph, error) {
	entries, err := r.Select(ctx, selection)
	if err != nil {
		return nil, err
	}
	g := &Graph{Objects: make([]GraphObject, len(entries)), index: make(map[Key]int, len(entries))}
	for i, entry := range entries {
		g.index[entry.Key()] = i
	}
	all, resolve, rules := waves(), resolverOf(r.resources()), newExcuses(ModeReplay, facts{})
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for i, entry := range entries {
		group.Go(func() error {
			key, o := entry.Key(), &g.Objects[i]
			*o = GraphObject{Key: key, Kind: entry.Kind, Wave: all[waveOf(all, key.Group, key.Resource)].name}
			object, err := r.read(ctx, entry)
			if err != nil && unreadable(err) != "" {
				o.Left = err.Error()
				return nil
			}
			if err != nil {
				return err
			}
			o.Left, o.Needs = rules.excused(key, object), references(key, object, resolve)
			g.sortNeeds(o)
			return nil
		})
	}
	return g, group.Wait()
}

func (g *Graph) sortNeeds(o *GraphObject) {
	known := func(r Reference) bool { _, found := g.index[r.Key]; return found }
	slices.SortFunc(o.Needs, func(a, b Reference) int {
		if known(a) != known(b) {
			if known(a) {
				return -1
			}
			return 1
		}
		return a.Key.Compare(b.Key)
	})
	o.Known = 0
	for _, need := range o.Needs {
		if known(need) {
			o.Known++
		}
	}
}

// Find lists the objects that a kind and a name mean. The kind is "Deployment", "deployments" or
// "deployments.apps", in any case; an empty namespace means any.
func (g *Graph) Find(kind, namespace, name string) []GraphObject {
	var found []GraphObject
	for _, o := range g.Objects {
		named := strings.EqualFold(kind, o.Kind) || strings.EqualFold(kind, o.Key.Resource) || strings.EqualFold(kind, o.Key.Resource+"."+groupDir(o.Key.Group))
		if named && o.Key.Name == name && (namespace == "" || o.Key.Namespace == namespace) {
			found = append(found, o)
		}
	}
	return found
}

// Waiting lists who needs an object, sorted by key.
func (g *Graph) Waiting(key Key) []GraphObject {
	var found []GraphObject
	for _, o := range g.Objects {
		if slices.ContainsFunc(o.Needs, func(r Reference) bool { return r.Key == key }) {
			found = append(found, o)
		}
	}
	return found
}

// Acyclic gives, for each object, the needs that a drawing without circles has. Hard ones go first, so
// that a circle is cut where it hurts least. It is for graphs that people look at: of some hundred objects.
func (g *Graph) Acyclic() map[Key][]Key {
	kept := map[Key][]Key{}
	for _, hard := range []bool{true, false} {
		for _, o := range g.Objects {
			for _, need := range o.Needs[:o.Known] {
				if need.Hard == hard && !leads(kept, need.Key, o.Key) {
					kept[o.Key] = append(kept[o.Key], need.Key)
				}
			}
		}
	}
	return kept
}

// leads reports whether needs lead from one object to another.
func leads(needs map[Key][]Key, from, to Key) bool {
	seen := map[Key]bool{}
	var walk func(Key) bool
	walk = func(key Key) bool {
		if key == to {
			return true
		}
		if seen[key] {
			return false
		}
		seen[key] = true
		return slices.ContainsFunc(needs[key], walk)
	}
	return walk(from)
}

// ByKind sums a graph up: one object a kind, named by its resource, with what any object of the kind
// needs.
func (g *Graph) ByKind() (*Graph, map[Key]int) {
	counts, needs := map[Key]int{}, map[Key]map[Key]Reference{}
	kindOf := func(k Key) Key { return Key{Group: k.Group, Resource: k.Resource} }
	summed := &Graph{index: map[Key]int{}}
	for _, o := range g.Objects {
		kind := kindOf(o.Key)
		if counts[kind]++; counts[kind] == 1 {
			needs[kind] = map[Key]Reference{}
			summed.index[kind] = len(summed.Objects)
			summed.Objects = append(summed.Objects, GraphObject{Key: kind, Kind: o.Kind, Wave: o.Wave})
		}
		for _, need := range o.Needs[:o.Known] {
			if other := kindOf(need.Key); other != kind {
				needs[kind][other] = Reference{Key: other, Why: need.Why, Hard: need.Hard}
			}
		}
	}
	for i := range summed.Objects {
		o := &summed.Objects[i]
		for _, need := range needs[o.Key] {
			o.Needs = append(o.Needs, need)
		}
		summed.sortNeeds(o)
	}
	return summed, counts
}

// Permissions are the verbs on every kind, and in every namespace, of which a replay of the selection
// would create an object.
func (g *Graph) Permissions(verbs ...string) []Permission {
	seen := map[Permission]bool{}
	var wanted []Permission
	for _, o := range g.Objects {
		on := Permission{Group: o.Key.Group, Resource: o.Key.Resource, Namespace: o.Key.Namespace}
		if o.Left != "" || seen[on] {
			continue
		}
		seen[on] = true
		for _, verb := range verbs {
			on.Verb = verb
			wanted = append(wanted, on)
		}
	}
	return wanted
}
