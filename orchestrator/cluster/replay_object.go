package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// one brings one object back, or settles that it does not come back. A cause is returned when the
// cluster does not take it yet; an error ends the replay.
func (r *replay) one(ctx context.Context, entry Entry) (cause, err error) {
	key := entry.Key()
	captured, err := r.load(ctx, entry)
	if err != nil {
		return nil, err
	}
	if reason := r.excused(key, captured); reason != "" {
		r.passOver(key, reason)
		return nil, nil
	}
	if r.awaits(Key{Resource: "namespaces", Name: key.Namespace}) {
		return fault.Newf("replay", fault.Transient, key.String(), "its namespace is not there yet"), nil
	}
	wanted := r.prepare(key, captured)
	if cause, err := r.adopt(ctx, key, wanted, captured.owners()); cause != nil || err != nil {
		return cause, err
	}
	resource := resourceOf(entry)
	living, err := r.create(ctx, resource, key, wanted)
	if err == nil {
		r.count(&r.result.Created)
	} else if statusCode(err) != 0 {
		living, err = r.existing(ctx, resource, key, wanted, err)
	}
	switch {
	case err == nil:
		r.mu.Lock()
		r.uids[entry.UID] = living.uid()
		r.pending[key] = false
		r.mu.Unlock()
		return nil, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case statusCode(err) == http.StatusUnauthorized || statusCode(err) == 0 && !fault.KindOf(err).Retryable():
		return nil, err
	case notYet(err):
		return err, nil
	}
	r.lose(key, refusal(err))
	return nil, nil
}

// prepare returns what to send for a captured object: without what each cluster fills by itself.
func (r *replay) prepare(key Key, captured Object) Object {
	wanted := r.normalise(key, stable(captured))
	if key.Group == "" && key.Resource == "services" && captured.text("spec", "clusterIP") == "None" {
		wanted["spec"].(map[string]any)["clusterIP"] = "None" // a headless Service: a choice, not an address
	}
	return wanted
}

// adopt gives owner references the UIDs that the owners have in this cluster. An owner that does not
// come back is left out: the garbage collector would delete the object with it.
func (r *replay) adopt(ctx context.Context, key Key, wanted Object, owners []owner) (cause, err error) {
	if len(owners) == 0 {
		return nil, nil
	}
	references := at(wanted, "metadata", "ownerReferences").([]any)
	var kept []any
	for i, o := range owners {
		uid, err := r.ownerUID(ctx, o)
		if err != nil {
			return nil, err
		}
		if uid == "" && r.awaits(r.captured[o.uid].Key()) {
			return fault.Newf("replay", fault.Transient, key.String(), "its owner %s %s is not there yet", o.kind, o.name), nil
		}
		if uid == "" {
			r.note(Changed, key, fmt.Sprintf("created without its owner %s %s, which is not there", o.kind, o.name))
			continue
		}
		references[i].(map[string]any)["uid"] = uid
		kept = append(kept, references[i])
	}
	wanted.metadata()["ownerReferences"] = kept
	if len(kept) == 0 {
		delete(wanted.metadata(), "ownerReferences")
	}
	return nil, nil
}

// awaits reports an object that is to come and has not come yet.
func (r *replay) awaits(key Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pending[key]
}

// ownerUID is empty for an owner that is not there. One that was passed over may stand in this
// cluster under the same name.
func (r *replay) ownerUID(ctx context.Context, o owner) (string, error) {
	entry, known := r.captured[o.uid]
	r.mu.Lock()
	uid, created := r.uids[o.uid]
	pending := r.pending[entry.Key()]
	r.mu.Unlock()
	if created || !known || pending {
		return uid, nil
	}
	living, err := r.get(ctx, resourceOf(entry), entry.Key())
	if statusCode(err) == http.StatusNotFound {
		return "", nil
	}
	return living.uid(), err
}

func resourceOf(entry Entry) Resource {
	return Resource{Group: entry.Group, Version: entry.Version, Name: entry.Resource, Kind: entry.Kind, Namespaced: entry.Namespace != ""}
}

func objectPath(resource Resource, key Key) string {
	return resource.path(key.Namespace) + "/" + url.PathEscape(key.Name)
}

func (r *replay) create(ctx context.Context, resource Resource, key Key, wanted Object) (Object, error) {
	body, err := json.Marshal(wanted)
	if err != nil {
		return nil, fault.New("replay", fault.Corrupt, key.String(), err)
	}
	var living Object
	err = r.Client.call(ctx, request{method: http.MethodPost, path: resource.path(key.Namespace), body: body}, &living)
	return living, err
}

func (r *replay) get(ctx context.Context, resource Resource, key Key) (Object, error) {
	var living Object
	err := r.Client.call(ctx, request{method: http.MethodGet, path: objectPath(resource, key)}, &living)
	return living, err
}

// existing deals with an object that could not be created, because it stands there already: from an
// earlier try, from a controller, or from somebody else. Then webhooks and quotas, which are asked
// first, may have refused it, so that every refusal is looked at.
func (r *replay) existing(ctx context.Context, resource Resource, key Key, wanted Object, refused error) (Object, error) {
	living, err := r.get(ctx, resource, key)
	if statusCode(err) == http.StatusNotFound && statusCode(refused) != http.StatusConflict {
		return nil, refused
	}
	if statusCode(err) == http.StatusNotFound || err == nil && deleting(living) {
		return nil, fault.Newf("replay", fault.Transient, key.String(), "an object of this name is being deleted")
	}
	if err != nil {
		return nil, err
	}
	before, after := stable(r.normalise(key, wanted)), stable(r.normalise(key, living))
	if Digest(before) == Digest(after) {
		r.count(&r.result.Present)
		return living, nil
	}
	if r.OnConflict != ReplaceExisting && !madeByController(key) {
		fields := strings.Join(differingFields(before, after, maxFields), ", ")
		r.lose(key, fmt.Sprintf("it stands there with other content (%s) and was kept: replay again with onConflict: replace, or delete it first", fields))
		return living, nil
	}
	return r.replace(ctx, resource, key, wanted, living)
}

// madeByController reports objects that every cluster makes in each namespace, for people to change.
func madeByController(key Key) bool {
	return key.Group == "" && key.Resource == "serviceaccounts" && key.Name == "default"
}

func (r *replay) replace(ctx context.Context, resource Resource, key Key, wanted, living Object) (Object, error) {
	replacement := clone(wanted).(Object)
	replacement.metadata()["resourceVersion"] = living.text("metadata", "resourceVersion")
	body, err := json.Marshal(replacement)
	if err != nil {
		return nil, fault.New("replay", fault.Corrupt, key.String(), err)
	}
	var replaced Object
	if err := r.Client.call(ctx, request{method: http.MethodPut, path: objectPath(resource, key), body: body}, &replaced); err != nil {
		return nil, err
	}
	r.count(&r.result.Replaced)
	return replaced, nil
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
