package cluster

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
)

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
	if !r.quotas[key] {
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
