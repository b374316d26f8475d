package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// adopt gives owner references the UIDs that the owners have in this cluster. An owner that does not
// come back is left out: the garbage collector would delete the object with it. So is one of a circle of
// owners, until reunite.
func (r *replay) adopt(ctx context.Context, w *want, captured []owner) error {
	references, _ := at(w.object, "metadata", "ownerReferences").([]any)
	if len(references) == 0 {
		return nil
	}
	var kept []any
	for _, entry := range references {
		reference, whole := entry.(map[string]any)
		if !whole {
			kept = append(kept, entry) // for the API server to refuse
			continue
		}
		o := ownerIn(reference)
		uid, coming, err := r.ownerUID(ctx, o, w.Namespace, captured)
		if err != nil {
			return err
		}
		if coming {
			r.mu.Lock()
			r.parted = append(r.parted, parted{want: w, captured: captured, references: clone(references).([]any)})
			r.mu.Unlock()
			continue
		}
		if uid == "" {
			r.note(Changed, w.Key(), fmt.Sprintf("created without its owner %s %s, which is not there", o.kind, o.name))
			continue
		}
		reference["uid"] = uid
		kept = append(kept, reference)
	}
	w.object.metadata()["ownerReferences"] = kept
	if len(kept) == 0 {
		delete(w.object.metadata(), "ownerReferences")
	}
	return nil
}

// ownerID is by what an object names an owner: its UID alone could be anybody's, and the garbage collector
// deletes what names an owner that is none.
type ownerID struct{ namespace, kind, name, uid string }

func (o ownerID) compare(other ownerID) int {
	return cmp.Or(
		strings.Compare(o.namespace, other.namespace), strings.Compare(o.kind, other.kind), strings.Compare(o.name, other.name), strings.Compare(o.uid, other.uid),
	)
}

// owners finds what others can name as owners. A map of all that would need many times the memory.
type owners struct {
	entries []Entry
	places  []int32 // in entries, in the order of their ownerIDs
}

func newOwners(entries []Entry) owners {
	o := owners{entries: entries}
	for i := range entries {
		if entries[i].UID != "" && entries[i].check() == nil {
			o.places = append(o.places, int32(i))
		}
	}
	slices.SortStableFunc(o.places, func(a, b int32) int { return o.id(a).compare(o.id(b)) })
	return o
}

func (o owners) id(place int32) ownerID {
	entry := &o.entries[place]
	return ownerID{entry.Namespace, entry.Kind, entry.Name, entry.UID}
}

func (o owners) find(id ownerID) (Entry, bool) {
	i, found := slices.BinarySearchFunc(o.places, id, func(place int32, id ownerID) int { return o.id(place).compare(id) })
	if !found {
		return Entry{}, false
	}
	return o.entries[o.places[i]], true
}

// ownerOf finds an owner in the recovery point: in the object's namespace, or in none.
func (r *replay) ownerOf(o owner, namespace string) (Entry, bool) {
	for _, namespace := range []string{namespace, ""} {
		if entry, found := r.owners.find(ownerID{namespace, o.kind, o.name, o.uid}); found {
			return entry, true
		}
	}
	return Entry{}, false
}

// ownerUID is empty for an owner that is not there; coming says that it is only not there yet. One that
// was passed over, or not selected, may stand in this cluster under the same name.
func (r *replay) ownerUID(ctx context.Context, o owner, namespace string, captured []owner) (uid string, coming bool, err error) {
	i := slices.IndexFunc(captured, func(c owner) bool { return c.kind == o.kind && c.name == o.name && c.group == o.group })
	if i < 0 {
		return o.uid, false, nil // a transformation wrote it
	}
	entry, known := r.ownerOf(captured[i], namespace)
	if !known {
		return "", false, nil
	}
	key := entry.Key()
	outcome, uid, settled := r.queue.outcomeOf(key)
	_, replayed := r.queue.entryOf(key)
	if uid != "" || settled && outcome.Result == Failed || replayed && !settled {
		return uid, replayed && !settled, nil
	}
	living, err := r.get(ctx, resourceOf(entry), r.transform.key(key))
	if statusCode(err) == http.StatusNotFound {
		return "", false, nil
	}
	return living.uid(), false, err
}

// parted is an object that was created before one of its owners: they own each other.
type parted struct {
	*want
	captured   []owner
	references []any // whole, without UIDs
}

// reunite gives such objects all their owners, now that these are there.
func (r *replay) reunite(ctx context.Context) error {
	for _, p := range r.parted {
		if p.outcome.Result != Created && p.outcome.Result != Recreated {
			continue
		}
		whole := &want{task: p.task, key: p.key, object: Object{"metadata": map[string]any{"ownerReferences": p.references}}}
		if err := r.adopt(ctx, whole, p.captured); err != nil {
			return err
		}
		if err := r.patch(ctx, p.resource(), p.key, whole.object); ignoreRefusal(err) != nil {
			return err
		}
	}
	return nil
}
