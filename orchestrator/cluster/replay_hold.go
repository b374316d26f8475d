package cluster

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/musterdr/muster/providers/fault"
)

// heldBack is the annotation of an object that a replay has changed for its own time: a quota that was
// raised, a controller that was paused. It holds the JSON merge patch that sets the object back, so that
// whoever comes after a death can do so.
const heldBack = "muster.dev/before-replay"

// hold changes fields of an object's spec until release sets them back. One that is held already stays
// so: what it holds now is not what it held before.
func (r *replay) hold(ctx context.Context, resource Resource, key Key, living Object, spec map[string]any) error {
	if _, held := living.annotation(heldBack); held {
		return nil
	}
	before := map[string]any{}
	for field := range spec {
		before[field] = at(living, "spec", field)
	}
	back := string(appendCanonical(nil, Object{"spec": before}))
	return r.patch(ctx, resource, key, Object{
		"metadata": map[string]any{"annotations": map[string]any{heldBack: back}, "resourceVersion": living.text("metadata", "resourceVersion")},
		"spec":     maps.Clone(spec),
	})
}

// release sets a held object back.
func (r *replay) release(ctx context.Context, resource Resource, key Key, living Object) error {
	text, held := living.annotation(heldBack)
	if !held {
		return nil
	}
	back, err := decodeObject([]byte(text))
	if err != nil {
		return fault.Newf("set back", fault.Invalid, key.String(), "its annotation %s is no patch: somebody changed it; set the object back by hand", heldBack)
	}
	back["metadata"] = map[string]any{"annotations": map[string]any{heldBack: nil}}
	err = r.patch(ctx, resource, key, back)
	if statusCode(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// released is an object as it is when a replay does not hold it.
func released(o Object) Object {
	text, held := o.annotation(heldBack)
	if !held {
		return o
	}
	back, err := patched(o, func(raw []byte) ([]byte, error) { return jsonpatch.MergePatch(raw, []byte(text)) })
	if err != nil {
		return o // somebody changed the annotation: leave it to be seen
	}
	remove(back, "metadata", "annotations", heldBack)
	return back
}

// unheld is a captured object as it is when no replay holds it. An annotation that is no patch goes, too:
// created with it, the object would never be set back.
func unheld(o Object) Object {
	o = released(o)
	remove(o, "metadata", "annotations", heldBack)
	return o
}

func (r *replay) patch(ctx context.Context, resource Resource, key Key, patch Object) error {
	return r.Client.call(ctx, request{
		method: http.MethodPatch, path: objectPath(resource, key), contentType: "application/merge-patch+json", body: appendCanonical(nil, patch),
	}, nil)
}

// plenty is more than any quota counts.
const plenty = "1P"

var (
	quotas     = Resource{Version: "v1", Name: "resourcequotas", Kind: "ResourceQuota", Namespaced: true}
	quotaNames = regexp.MustCompile(`exceeded quota: ([a-z0-9.-]+)`)
)

// raise lifts the captured quota that refused an object, as it would in no other order: what is replayed
// fitted below it together. A quota of the cluster's own stays. It reports whether trying again is worth
// it.
func (r *replay) raise(ctx context.Context, namespace string, refused error) (bool, error) {
	found := quotaNames.FindStringSubmatch(refused.Error())
	if found == nil {
		return false, nil
	}
	key := Key{Resource: quotas.Name, Namespace: namespace, Name: found[1]}
	r.mu.Lock()
	defer r.mu.Unlock() // one at a time: others would ask for a quota that is being raised
	if r.raised[key] {
		return true, nil
	}
	if !r.targets[key] {
		return false, nil
	}
	living, err := r.get(ctx, quotas, key)
	if err == nil {
		err = r.hold(ctx, quotas, key, living, map[string]any{"hard": lifted(living)})
	}
	r.raised[key] = err == nil
	return err == nil || statusCode(err) == http.StatusConflict, ignoreRefusal(err)
}

func lifted(quota Object) map[string]any {
	limits, _ := at(quota, "spec", "hard").(map[string]any)
	high := map[string]any{}
	for name := range limits {
		high[name] = plenty
	}
	return high
}

// lowerQuotas sets back every quota that a replay has raised.
func (r *replay) lowerQuotas(ctx context.Context) error {
	var held []Object
	err := r.Client.list(ctx, quotas, 0, nil, func(raw json.RawMessage) error {
		quota, err := decodeObject(raw)
		if err != nil {
			return err
		}
		if _, found := quota.annotation(heldBack); found {
			held = append(held, quota)
		}
		return nil
	})
	if err != nil {
		return ignoreRefusal(err) // who may not list them has raised none
	}
	for _, quota := range held {
		if err := r.release(ctx, quotas, quotas.key(quota), quota); err != nil {
			return err
		}
	}
	return nil
}

// ignoreRefusal drops what the server answered and keeps what nobody answered.
func ignoreRefusal(err error) error {
	if statusCode(err) != 0 && fault.KindOf(err) != fault.Transient {
		return nil
	}
	return err
}

// pausable is a controller that is to stand still while objects are replayed that it would act on.
type pausable struct {
	resource Resource
	key      Key
	spec     map[string]any // how it is told
}

// pausables reads "<namespace>/<resource>.<group>/<name>", or "<namespace>/<resource>/<name>" of the
// legacy group.
func (r *replay) pausables(ctx context.Context) ([]pausable, error) {
	if len(r.Pause) == 0 {
		return nil, nil
	}
	served, _, err := r.Client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	var found []pausable
	for _, text := range r.Pause {
		parts := strings.Split(text, "/")
		name, group, _ := strings.Cut(parts[1], ".")
		for _, resource := range served {
			if resource.Name != name || resource.Group != group {
				continue
			}
			key := Key{Group: group, Resource: name, Namespace: parts[0], Name: parts[2]}
			found = append(found, pausable{resource, key, standstill(resource)})
		}
	}
	return found, nil
}

// standstill is what tells a controller to stand still.
func standstill(resource Resource) map[string]any {
	switch resource.Group {
	case "batch", "kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io":
		return map[string]any{"suspend": true}
	case "", "apps", "apps.openshift.io":
		return map[string]any{"replicas": json.Number("0")}
	}
	return map[string]any{"paused": true}
}

func checkPause(list []string) error {
	for _, text := range list {
		if parts := strings.Split(text, "/"); len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
			return fault.Newf("read pause", fault.Invalid, text, "want namespace/resource.group/name, such as shop/deployments.apps/operator")
		}
	}
	return nil
}

// pause lets controllers stand still, and waits until they do. One that is not there can't race.
func (r *replay) pause(ctx context.Context, list []pausable) error {
	for _, p := range list {
		living, err := r.get(ctx, p.resource, p.key)
		if statusCode(err) == http.StatusNotFound {
			continue
		}
		if err == nil {
			err = r.hold(ctx, p.resource, p.key, living, p.spec)
		}
		if err != nil {
			return err
		}
		if _, scaled := p.spec["replicas"]; scaled {
			if err := r.awaitStandstill(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *replay) awaitStandstill(ctx context.Context, p pausable) error {
	waiting, cancel := context.WithTimeout(ctx, r.Wait)
	defer cancel()
	r.Progress.Status("waiting until " + p.key.Name + " stands still")
	err := until(waiting, func() (bool, error) {
		living, err := r.get(waiting, p.resource, p.key)
		count, _ := at(living, "status", "replicas").(json.Number)
		return err == nil && (count == "" || count == "0"), err
	})
	if err != nil && ctx.Err() == nil {
		return fault.Newf("pause", fault.Transient, p.key.String(), "its pods still run after %s: %w", r.Wait, err)
	}
	return err
}

// letGo sets the controllers back, in the order of the plan.
func (r *replay) letGo(ctx context.Context, list []pausable) error {
	for _, p := range list {
		living, err := r.get(ctx, p.resource, p.key)
		if statusCode(err) == http.StatusNotFound {
			continue
		}
		if err == nil {
			err = r.release(ctx, p.resource, p.key, living)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
