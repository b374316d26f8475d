package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// bring creates an object, or deals with one that stands there.
func (r *replay) bring(ctx context.Context, w *want) (Outcome, error) {
	if there, stands := r.stands(w); stands {
		if there.digest == r.digest(w.key, w.object) {
			w.uid = there.uid
			return Outcome{Result: Present}, nil
		}
		if outcome, err := r.existing(ctx, w, nil); !errors.Is(err, errGone) {
			return outcome, err
		}
	}
	living, err := r.createWithAddresses(ctx, w)
	if err == nil {
		w.uid = living.uid()
		return Outcome{Result: w.created()}, r.established(ctx, w)
	}
	if statusCode(err) == 0 {
		return Outcome{}, err
	}
	return r.existing(ctx, w, err)
}

// stands tells what the survey met in an object's place. What stood in a namespace that was made since
// went with the old one.
func (r *replay) stands(w *want) (stood, bool) {
	outcome, _, _ := r.queue.outcomeOf(Key{Resource: "namespaces", Name: w.Namespace})
	there, stands := r.standing[w.key]
	return there, stands && (w.Namespace == "" || outcome.Result != Created)
}

var errGone = errors.New("it stood there and is gone")

// existing deals with an object that stands there already: from an earlier try, from a controller, or
// from somebody else. It may do so behind any refusal to create it, since webhooks and quotas are asked
// first.
func (r *replay) existing(ctx context.Context, w *want, refused error) (Outcome, error) {
	living, err := r.get(ctx, w.resource(), w.key)
	switch {
	case statusCode(err) == http.StatusNotFound && refused == nil:
		return Outcome{}, errGone
	case statusCode(err) == http.StatusNotFound && statusCode(refused) != http.StatusConflict:
		return Outcome{}, refused
	case statusCode(err) == http.StatusNotFound || err == nil && deleting(living):
		return Outcome{}, beingDeleted(w.key)
	case err != nil:
		return Outcome{}, err
	}
	w.uid = living.uid()
	if r.digest(w.key, w.object) == r.digest(w.key, living) {
		return Outcome{Result: Present}, nil
	}
	switch w.onConflict() {
	case SkipExisting:
		return Outcome{Kept, Conflicting, "it stands there with other content (" + r.differing(w, living) + ")"}, nil
	case UpdateExisting:
		return r.update(ctx, w, living)
	case ReplaceExisting:
		return r.replace(ctx, w, living)
	case RecreateExisting:
		outcome, err := r.replace(ctx, w, living)
		if statusCode(err) == http.StatusUnprocessableEntity && r.valid(ctx, w) {
			return r.recreate(ctx, w, living)
		}
		return outcome, err
	}
	return Outcome{Failed, Conflicting, fmt.Sprintf(
		"it stands there with other content (%s) and was kept: replay again with onConflict: replace, or delete it first", r.differing(w, living))}, nil
}

// onConflict is what becomes of what stands in the object's place. What every cluster makes by itself is
// there for people to change: keeping it would lose their changes.
func (w *want) onConflict() Conflict {
	if w.policy.OnConflict == KeepExisting && madeByController(w.key) {
		return ReplaceExisting
	}
	return w.policy.OnConflict
}

func (r *replay) differing(w *want, living Object) string {
	before, after := stable(r.normalise(w.key, w.object)), stable(r.normalise(w.key, living))
	return strings.Join(differingFields(before, after, maxFields), ", ")
}

// madeByController reports objects that every cluster makes in each namespace, for people to change.
func madeByController(key Key) bool {
	return key.Group == "" && key.Resource == "serviceaccounts" && (key.Name == "default" || key.Name == "builder" || key.Name == "deployer")
}

// replace puts the content in the place of what stands there.
func (r *replay) replace(ctx context.Context, w *want, living Object) (Outcome, error) {
	replacement := withoutAddresses(w.key, w.object, living)
	replacement.metadata()["resourceVersion"] = living.text("metadata", "resourceVersion")
	err := r.write(ctx, http.MethodPut, w, replacement, nil)
	return Outcome{Result: Replaced}, err
}

// update applies the captured fields by server-side apply; fields that only the living object has stay.
func (r *replay) update(ctx context.Context, w *want, living Object) (Outcome, error) {
	var updated Object
	err := r.write(ctx, http.MethodPatch, w, withoutAddresses(w.key, w.object, living), &updated)
	if err == nil && updated.text("metadata", "resourceVersion") == living.text("metadata", "resourceVersion") {
		return Outcome{Result: Present}, nil
	}
	return Outcome{Result: Updated}, err
}

func (r *replay) write(ctx context.Context, method string, w *want, object Object, into any) error {
	write := request{method: method, path: objectPath(w.resource(), w.key), query: warnOfFields, body: appendCanonical(nil, object)}
	if method == http.MethodPatch {
		write.contentType = "application/apply-patch+yaml" // JSON is YAML
		write.query = url.Values{"fieldManager": {"muster"}, "force": {"true"}, "fieldValidation": {"Warn"}}
	}
	warnings, err := r.Client.warned(ctx, write, into)
	w.dropped = unknownFields(warnings)
	return err
}

// valid asks the API server whether it would take the object if nothing stood in its place: before it
// says that something does, it has looked at the content.
func (r *replay) valid(ctx context.Context, w *want) bool {
	err := r.Client.call(ctx, request{
		method: http.MethodPost, path: w.resource().path(w.key.Namespace), query: url.Values{"dryRun": {"All"}}, body: appendCanonical(nil, w.object),
	}, nil)
	return err == nil || statusCode(err) == http.StatusConflict
}

// recreate deletes what can't be changed and creates it anew.
func (r *replay) recreate(ctx context.Context, w *want, living Object) (Outcome, error) {
	err := r.delete(ctx, w.resource(), w.key, living.uid())
	if err != nil && statusCode(err) != http.StatusNotFound {
		return Outcome{}, err
	}
	w.deleted = true
	created, err := r.createWithAddresses(ctx, w)
	if statusCode(err) == http.StatusConflict {
		return Outcome{}, beingDeleted(w.key)
	}
	w.uid = created.uid()
	return Outcome{Result: Recreated}, err
}

// delete deletes one object, and no other that has taken its name.
func (r *replay) delete(ctx context.Context, resource Resource, key Key, uid string) error {
	options := Object{
		"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": map[string]any{"uid": uid},
	}
	return r.Client.call(ctx, request{method: http.MethodDelete, path: objectPath(resource, key), body: appendCanonical(nil, options)}, nil)
}

func beingDeleted(key Key) error {
	return fault.New("replay", fault.Transient, key.String(), errBeingDeleted)
}

var errBeingDeleted = errors.New("an object of this name is being deleted")
