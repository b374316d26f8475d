package cluster

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

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
