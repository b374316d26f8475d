package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// writeStatus writes the captured status through the subresource. Kinds without one had it with the
// rest of the object.
func (r *replay) writeStatus(ctx context.Context, w *want, captured Object) error {
	status, found := captured["status"]
	if !found {
		return nil
	}
	err := r.Client.call(ctx, request{
		method: http.MethodPatch, path: objectPath(w.resource(), w.key) + "/status", contentType: "application/merge-patch+json",
		body: appendCanonical(nil, Object{"status": status}),
	}, nil)
	if statusCode(err) == http.StatusNotFound || statusCode(err) == http.StatusMethodNotAllowed {
		return nil
	}
	return err
}

func resourceOf(entry Entry) Resource {
	return Resource{Group: entry.Group, Version: entry.Version, Name: entry.Resource, Kind: entry.Kind, Namespaced: entry.Namespace != ""}
}

func objectPath(resource Resource, key Key) string {
	return resource.path(key.Namespace) + "/" + url.PathEscape(key.Name)
}

// onlyMetadata asks for the metadata of an object alone; who does not know that answers with all of it.
const onlyMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

// create returns the metadata of what was created, and notes the fields that the cluster dropped.
func (r *replay) create(ctx context.Context, w *want) (Object, error) {
	body, err := json.Marshal(w.object)
	if err != nil {
		return nil, fault.New("replay", fault.Corrupt, w.key.String(), err)
	}
	if err := r.Client.writes.enter(ctx); err != nil {
		return nil, err
	}
	var living Object
	warnings, err := r.Client.warned(ctx, request{
		method: http.MethodPost, path: w.resource().path(w.key.Namespace), query: warnOfFields, accept: onlyMetadata, body: body,
	}, &living)
	w.dropped = unknownFields(warnings)
	r.Client.writes.leave(err == nil || statusCode(err) != 0 && statusCode(err) != http.StatusTooManyRequests)
	return living, err
}

// warnOfFields makes the API server tell which fields it does not know, and drops.
var warnOfFields = url.Values{"fieldValidation": {"Warn"}}

// unknownFields reads these fields from its warnings: `unknown field "spec.size"`.
func unknownFields(warnings []string) []string {
	var fields []string
	for _, text := range warnings {
		if field, found := strings.CutPrefix(text, "unknown field "); found {
			fields = append(fields, strings.Trim(field, `"`))
		}
	}
	return fields
}

func (r *replay) get(ctx context.Context, resource Resource, key Key) (Object, error) {
	var living Object
	err := r.Client.call(ctx, request{method: http.MethodGet, path: objectPath(resource, key)}, &living)
	return living, err
}

// notYet reports refusals that pass when something else has come up: a kind or a namespace that is
// not there yet or going away, a webhook whose backend starts, a quota that is counted again.
func notYet(err error) bool {
	code := statusCode(err)
	return code == http.StatusNotFound || code == http.StatusConflict || code >= 500 || fault.KindOf(err).Retryable() ||
		code == http.StatusForbidden && (strings.Contains(err.Error(), "being terminated") || strings.Contains(err.Error(), "status unknown for quota") || strings.Contains(err.Error(), "serviceaccount"))
}

// refusal is the server's answer without the request's path.
func refusal(err error) string {
	var failed *fault.Error
	if errors.As(err, &failed) && failed.Err != nil {
		return failed.Err.Error()
	}
	return err.Error()
}
