package cluster

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/musterdr/muster/providers/fault"
)

// errUnanswered parks a webhook configuration or an API service until somebody answers for it.
var errUnanswered = errors.New("its service has no endpoint that is ready")

// asksBackend reports kinds that make the API server ask a service about other objects.
func asksBackend(key Key) bool {
	return key.Group == "admissionregistration.k8s.io" || key.Group == "apiregistration.k8s.io"
}

// awaitBackend parks what would make the API server ask services of this replay that do not answer yet:
// until they do, such a configuration only stops others. Once nothing has come back for the whole wait, it
// is created all the same.
func (r *replay) awaitBackend(ctx context.Context, t *task, needs []Reference) (parked bool, err error) {
	if !asksBackend(t.Key()) || t.insists {
		return false, nil
	}
	for _, need := range needs {
		if need.Key.Group != "" || need.Key.Resource != "services" {
			continue
		}
		if _, replayed := r.queue.entryOf(need.Key); !replayed {
			continue
		}
		ready, err := r.answers(ctx, r.transform.key(need.Key))
		if err != nil {
			return false, err
		}
		if !ready {
			r.queue.park(t, fault.New("replay", fault.Transient, need.Key.String(), errUnanswered))
			return true, nil
		}
	}
	return false, nil
}

// answers reports whether a service has an endpoint that is ready. Where endpoints may not be listed,
// nothing is known.
func (r *replay) answers(ctx context.Context, service Key) (bool, error) {
	slices := Resource{Group: "discovery.k8s.io", Version: "v1", Name: "endpointslices", Namespaced: true}
	var list struct {
		Items []struct {
			Endpoints []struct {
				Conditions struct{ Ready *bool }
			}
		}
	}
	query := url.Values{"labelSelector": {"kubernetes.io/service-name=" + service.Name}}
	err := r.Client.call(ctx, request{method: http.MethodGet, path: slices.path(service.Namespace), query: query}, &list)
	if err != nil {
		return true, ignoreRefusal(err)
	}
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready { // nil means unknown, which counts as ready
				return true, nil
			}
		}
	}
	return false, nil
}
