package cluster

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"

	"github.com/musterdr/muster/providers/fault"
)

const (
	// raisedQuota is the annotation that keeps the limits of a quota while a replay has raised them, so
	// that whoever comes after a death can set them back.
	raisedQuota = "muster.dev/quota-before-replay"
	// plenty is more than any quota counts.
	plenty = "1P"
)

var (
	quotas     = Resource{Version: "v1", Name: "resourcequotas", Kind: "ResourceQuota", Namespaced: true}
	quotaNames = regexp.MustCompile(`exceeded quota: ([a-z0-9.-]+)`)
)

// raise lifts the quota that refused an object, as it would refuse it in no other order: what is
// replayed fitted below it together. It reports whether trying again is worth it.
func (r *replay) raise(ctx context.Context, namespace string, refused error) (bool, error) {
	found := quotaNames.FindStringSubmatch(refused.Error())
	if found == nil {
		return false, nil
	}
	key := Key{Resource: quotas.Name, Namespace: namespace, Name: found[1]}
	r.mu.Lock()
	defer r.mu.Unlock() // one at a time: others would keep raised limits as the ones before
	if r.raised[key] {
		return true, nil
	}
	if !r.targets[key] {
		return false, nil // it is the new cluster's own
	}
	living, err := r.get(ctx, quotas, key)
	if err != nil {
		return false, ignoreRefusal(err)
	}
	if _, raised := living.annotation(raisedQuota); !raised {
		err = r.patch(ctx, quotas, key, raising(living))
	}
	r.raised[key] = err == nil
	return err == nil, ignoreRefusal(err)
}

func raising(quota Object) Object {
	limits, _ := at(quota, "spec", "hard").(map[string]any)
	lifted := map[string]any{}
	for name := range limits {
		lifted[name] = plenty
	}
	return Object{
		"metadata": map[string]any{"annotations": map[string]any{raisedQuota: string(appendCanonical(nil, limits))}},
		"spec":     map[string]any{"hard": lifted},
	}
}

// lowerQuotas sets back every quota that a replay has raised.
func (r *replay) lowerQuotas(ctx context.Context) error {
	var marked []Object
	err := r.Client.list(ctx, quotas, 0, nil, func(raw json.RawMessage) error {
		quota, err := decodeObject(raw)
		if err != nil {
			return err
		}
		quota["kind"] = quotas.Kind // lists leave it out
		if _, raised := quota.annotation(raisedQuota); raised {
			marked = append(marked, quota)
		}
		return nil
	})
	if err != nil {
		return ignoreRefusal(err)
	}
	for _, quota := range marked {
		key := Key{Resource: quotas.Name, Namespace: quota.namespace(), Name: quota.name()}
		before := unraised(quota)
		patch := Object{
			"metadata": map[string]any{"annotations": map[string]any{raisedQuota: nil}},
			"spec":     map[string]any{"hard": at(before, "spec", "hard")},
		}
		if err := r.patch(ctx, quotas, key, patch); err != nil && statusCode(err) != http.StatusNotFound {
			return err
		}
	}
	return nil
}

// unraised is a quota as it was before a replay raised it; other objects are as they are.
func unraised(o Object) Object {
	text, raised := o.annotation(raisedQuota)
	if !raised || o.kind() != quotas.Kind {
		return o
	}
	limits, err := decodeObject([]byte(text))
	before := clone(o).(Object)
	spec, whole := before["spec"].(map[string]any)
	if err != nil || !whole {
		return o // somebody wrote there by hand: leave it to be seen
	}
	remove(before, "metadata", "annotations", raisedQuota)
	spec["hard"] = map[string]any(limits)
	return before
}

// ignoreRefusal drops what the server answered and keeps what nobody answered.
func ignoreRefusal(err error) error {
	if statusCode(err) != 0 && fault.KindOf(err) != fault.Transient {
		return nil
	}
	return err
}

func (r *replay) patch(ctx context.Context, resource Resource, key Key, patch Object) error {
	return r.Client.call(ctx, request{
		method: http.MethodPatch, path: objectPath(resource, key), contentType: "application/merge-patch+json", body: appendCanonical(nil, patch),
	}, nil)
}
