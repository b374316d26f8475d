package cluster

import (
	"context"
	"maps"
	"net/http"

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

// ignoreRefusal drops what the server answered and keeps what nobody answered.
func ignoreRefusal(err error) error {
	if statusCode(err) != 0 && fault.KindOf(err) != fault.Transient {
		return nil
	}
	return err
}
