package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

// stood is an object that stood in the cluster when the replay began.
type stood struct {
	uid    string
	digest [sha256.Size]byte // after normalisation
}

// extra is an object that stands in the cluster and not in the recovery point.
type extra struct {
	resource Resource
	key      Key
	uid      string
}

// sought is where objects are to come, in the cluster: the objects' keys, and their namespaces.
type sought struct {
	keys       map[Key]bool
	namespaces map[string]bool
}

// survey lists what stands in the cluster already, of the kinds that are to come. A list of a kind
// costs a fraction of asking for each object, so that a repeated replay is quick.
func (r *replay) survey(ctx context.Context, tasks []*task) error {
	kinds, sought := map[Resource]bool{}, sought{keys: map[Key]bool{}, namespaces: map[string]bool{}}
	for _, t := range tasks {
		if t.check() != nil {
			continue // nothing is to be asked by such words
		}
		sought.keys[t.there], sought.namespaces[t.there.Namespace] = true, true
		if t.Group == "" && t.Resource == quotas.Name {
			r.quotas[t.there] = true
		}
		kinds[resourceOf(*t.Entry)] = true
	}
	if err := r.addPruned(ctx, kinds); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for resource := range kinds {
		for _, place := range surveyed(resource, sought.namespaces) {
			group.Go(func() error {
				err := r.Client.listScope(ctx, place, 0, nil, func(raw json.RawMessage) error { return r.meet(resource, raw, sought) })
				switch statusCode(err) {
				case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusForbidden:
					return nil // a kind that is to come, or an account that may create and not list
				}
				return err
			})
		}
	}
	err := group.Wait()
	slices.SortFunc(r.extra, func(a, b extra) int { return a.key.Compare(b.key) })
	return err
}

// surveyed are the lists that show what stands in the namespaces: of each, while they are few, for tenants
// see no others; else of the whole cluster.
func surveyed(resource Resource, namespaces map[string]bool) []scope {
	const few = 20
	if !resource.Namespaced || len(namespaces) > few {
		return []scope{{Resource: resource}}
	}
	var places []scope
	for namespace := range namespaces {
		if namespace != "" {
			places = append(places, scope{Resource: resource, namespace: namespace})
		}
	}
	return places
}

// addPruned adds the kinds whose surplus objects are to go: the recovery point need not hold any of them.
func (r *replay) addPruned(ctx context.Context, kinds map[Resource]bool) error {
	if !slices.ContainsFunc(r.policies, func(p *policy) bool { return p.Prune }) {
		return nil
	}
	served, _, err := r.Client.Discover(ctx)
	if err != nil {
		return err
	}
	for kind := range kinds { // in the version of the recovery point
		served = slices.DeleteFunc(served, func(s Resource) bool { return s.Group == kind.Group && s.Name == kind.Name })
	}
	for _, s := range served {
		if s.Namespaced && slices.ContainsFunc(r.policies, func(p *policy) bool { return p.Prune && p.fitsKind(s.key(Object{})) }) {
			kinds[Resource{Group: s.Group, Version: s.Version, Name: s.Name, Kind: s.Kind, Namespaced: true}] = true
		}
	}
	return nil
}

// meet notes an object of the cluster.
func (r *replay) meet(resource Resource, raw json.RawMessage, sought sought) error {
	living, err := decodeObject(raw)
	if err != nil {
		return fault.New("survey", fault.Corrupt, resource.Name, err)
	}
	if deleting(living) {
		return nil
	}
	living["apiVersion"], living["kind"] = resource.apiVersion(), resource.Kind
	key := Key{Group: resource.Group, Resource: resource.Name, Namespace: living.namespace(), Name: living.name()}
	digest := r.digest(key, living)
	r.mu.Lock()
	defer r.mu.Unlock()
	if sought.keys[key] {
		r.standing[key] = stood{uid: living.uid(), digest: digest}
		return nil
	}
	if key.Namespace != "" && sought.namespaces[key.Namespace] && r.prunes(key, living) {
		r.extra = append(r.extra, extra{resource: resource, key: key, uid: living.uid()})
	}
	return nil
}

// digest is over what a replay promises to bring back of an object.
func (r *replay) digest(key Key, o Object) [sha256.Size]byte {
	return sha256.Sum256(appendCanonical(nil, map[string]any(stable(r.normalise(key, released(o))))))
}
