package cluster

import (
	"context"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Select lists the entries that a selection means, in their order. It reads objects where keys do not
// tell.
func (r Recorded) Select(ctx context.Context, selection Selection) ([]Entry, error) {
	f, err := selection.filter()
	if err != nil {
		return nil, err
	}
	if !f.readsObjects() {
		return keep(r.Entries, func(i int) bool { return !f.skipsKey(r.Entries[i].Key()) }), nil
	}
	needs := newNeeds(resolverOf(r.resources()))
	meant := make([]bool, len(r.Entries))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for i, entry := range r.Entries {
		if f.skipsKey(entry.Key()) {
			continue
		}
		group.Go(func() (err error) {
			meant[i], err = r.asks(ctx, f, needs, entry)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if !f.needed() {
		return keep(r.Entries, func(i int) bool { return meant[i] }), nil
	}
	needed := needs.needed()
	return keep(r.Entries, func(i int) bool {
		return meant[i] && (r.Entries[i].Namespace != "" || needed[r.Entries[i].Key()])
	}), nil
}

// asks reads one object and reports whether it is meant.
func (r Recorded) asks(ctx context.Context, f *filter, needs *needs, entry Entry) (bool, error) {
	object, err := r.read(ctx, entry)
	if err != nil && unreadable(err) != "" {
		return true, nil // whoever reads it next tells that it can't be read
	}
	if err != nil {
		return false, err
	}
	skipped, err := f.skips(ctx, entry.Key(), object)
	if err != nil || skipped || !f.needed() {
		return !skipped, err
	}
	if entry.Namespace == "" {
		needs.offered(entry.Key(), object)
	} else {
		needs.selected(entry.Key(), object)
	}
	return true, nil
}

// resources are the kinds of a recovery point.
func (r Recorded) resources() []Resource {
	seen := map[Key]bool{}
	var found []Resource
	for _, entry := range r.Entries {
		kind := Key{Group: entry.Group, Resource: entry.Resource}
		if seen[kind] {
			continue
		}
		seen[kind] = true
		found = append(found, Resource{
			Group: entry.Group, Version: entry.Version, Name: entry.Resource, Kind: entry.Kind, Namespaced: entry.Namespace != "",
		})
	}
	return found
}

// keep returns the wanted entries. It copies none when all are wanted: there can be very many.
func keep(entries []Entry, wanted func(i int) bool) []Entry {
	first := 0 // that is not wanted
	for first < len(entries) && wanted(first) {
		first++
	}
	kept := slices.Clip(entries[:first])
	for i := first + 1; i < len(entries); i++ {
		if wanted(i) {
			kept = append(kept, entries[i])
		}
	}
	return kept
}
