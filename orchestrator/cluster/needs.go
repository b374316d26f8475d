package cluster

import (
	"slices"
	"sync"
)

// needs finds the objects of no namespace that go with selected objects: what those name, directly
// and through one another, and what names the namespaces they live in. It is safe for concurrent use.
type needs struct {
	resolve resolver

	mu     sync.Mutex
	spaces map[string]bool // namespaces with selected objects
	bound  map[Key]bool    // selected claims and snapshots: what they are bound to may name them alone
	wanted map[Key]bool    // what selected objects name
	names  map[Key][]Key   // what each object of no namespace names
}

func newNeeds(resolve resolver) *needs {
	return &needs{resolve: resolve, spaces: map[string]bool{}, bound: map[Key]bool{}, wanted: map[Key]bool{}, names: map[Key][]Key{}}
}

// selected tells of a selected object of a namespace.
func (n *needs) selected(key Key, o Object) {
	named := references(key, o, n.resolve)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spaces[key.Namespace] = true
	if key.Resource == "persistentvolumeclaims" || key.Resource == "volumesnapshots" {
		n.bound[key] = true
	}
	for _, reference := range named {
		if reference.Key.Namespace == "" {
			n.wanted[reference.Key] = true
		}
	}
}

// offered tells of an object of no namespace.
func (n *needs) offered(key Key, o Object) {
	named := []Key{}
	for _, reference := range references(key, o, n.resolve) {
		named = append(named, reference.Key)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[key] = named
}

// needed lists those of the offered objects that are needed.
func (n *needs) needed() map[Key]bool {
	found := map[Key]bool{}
	for key, named := range n.names {
		if n.wanted[key] || slices.ContainsFunc(named, n.inside) {
			n.follow(key, found)
		}
	}
	return found
}

// inside reports whether who names the key belongs to the selection: to a namespace, its accounts or
// its services, or to a claim or a snapshot.
func (n *needs) inside(key Key) bool {
	switch {
	case key.isNamespace():
		return n.spaces[key.Name]
	case key.Group == "" && (key.Resource == "serviceaccounts" || key.Resource == "services"):
		return n.spaces[key.Namespace]
	}
	return n.bound[key]
}

// follow adds an object and what it names. Namespaces come by what lives in them alone: that a
// binding names the accounts of two of them makes no second tenant.
func (n *needs) follow(key Key, found map[Key]bool) {
	named, offered := n.names[key]
	if !offered || found[key] {
		return
	}
	found[key] = true
	for _, next := range named {
		if !next.isNamespace() {
			n.follow(next, found)
		}
	}
}
