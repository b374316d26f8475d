package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// one brings one object back, lets it wait for what it needs, sets it aside while the cluster does not
// take it, or settles that it does not come back. An error ends the replay.
func (r *replay) one(ctx context.Context, t *task) error {
	key := t.Key()
	captured, err := r.load(ctx, *t.Entry)
	if err != nil {
		return r.loseUnread(t, err)
	}
	if reason := r.excused(key, captured); reason != "" {
		halted, err := r.halted(ctx, key, captured)
		if err == nil && !halted {
			r.passOver(t, reason)
		}
		if err != nil || !halted {
			return err
		}
	}
	if left := r.leftTo(key, captured); left != "" {
		r.passOver(t, left)
		return nil
	}
	needs := references(key, captured, r.resolve)
	if r.queue.await(t, needs) {
		return nil
	}
	if lacks, reason := r.lacks(needs); reason != "" {
		r.lose(t, reason, lacks)
		return nil
	}
	if parked, err := r.awaitBackend(ctx, t, needs); parked || err != nil {
		return err
	}
	wanted, err := r.prepare(ctx, key, captured)
	if err != nil {
		r.lose(t, Refused, refusal(err))
		return nil
	}
	w := &want{task: t, key: targetKey(key, wanted), object: wanted, policy: r.policyOf(key, captured)}
	t.there = w.key
	if err := r.adopt(ctx, w, captured.owners()); err != nil {
		return r.answer(ctx, w, Outcome{}, err)
	}
	outcome, err := r.bring(ctx, w)
	if err == nil && w.policy.Status {
		err = r.writeStatus(ctx, w, captured)
	}
	return r.answer(ctx, w, outcome, err)
}

// halted reports a ReplicaSet whose Deployment is paused: nobody makes it again, and its pods would run
// nowhere.
func (r *replay) halted(ctx context.Context, key Key, captured Object) (bool, error) {
	if key.Group != "apps" || key.Resource != "replicasets" {
		return false, nil
	}
	for _, o := range captured.owners() {
		owner, found := r.ownerOf(o, key.Namespace)
		if !found || o.kind != "Deployment" {
			continue
		}
		entry, found := r.queue.entryOf(owner.Key())
		if !found {
			continue
		}
		deployment, err := r.load(ctx, entry)
		if err != nil && unreadable(err) != "" {
			return false, nil // its own outcome tells so
		}
		return at(deployment, "spec", "paused") == true, err
	}
	return false, nil
}

// want is an object as it is to be in the cluster.
type want struct {
	*task
	key    Key // in the cluster
	object Object
	policy *policy
}

func (w *want) resource() Resource {
	resource := resourceOf(*w.Entry)
	_, resource.Version = splitVersion(w.object.text("apiVersion"))
	return resource
}

// targetKey is where an object stands in the cluster: transformations may give it another name.
func targetKey(key Key, wanted Object) Key {
	key.Namespace, key.Name = wanted.namespace(), wanted.name()
	return key
}

// created is the result of a creation: an earlier try may have deleted what stood there.
func (w *want) created() Result {
	if w.deleted {
		return Recreated
	}
	return Created
}

// loseUnread settles an object that the recovery point does not hold as its index says. What the
// repository can't answer now is no such thing.
func (r *replay) loseUnread(t *task, err error) error {
	reason := unreadable(err)
	if reason == "" {
		return err
	}
	r.lose(t, reason, err.Error())
	return nil
}

// answer settles an object by how the cluster answered.
func (r *replay) answer(ctx context.Context, w *want, outcome Outcome, err error) error {
	if err == nil {
		if outcome.Result == Failed {
			r.note(Lost, w.Key(), outcome.Message)
		}
		r.settle(w.task, outcome)
		return nil
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case statusCode(err) == http.StatusUnauthorized || statusCode(err) == 0 && !fault.KindOf(err).Retryable():
		return err
	case notYet(err):
		r.queue.park(w.task, err)
		r.Progress.Status(fmt.Sprintf("%d objects are not taken yet", r.queue.parkedCount()))
		return nil
	}
	if reasonOf(err) == QuotaExceeded {
		again, failed := r.raise(ctx, w.key.Namespace, err)
		if failed != nil {
			return failed
		}
		if again {
			r.queue.park(w.task, err)
			return nil
		}
	}
	r.lose(w.task, reasonOf(err), refusal(err))
	return nil
}

// lacks tells which object an object can't be without has not come back.
func (r *replay) lacks(needs []Reference) (text string, reason Reason) {
	for _, need := range needs {
		outcome, _, settled := r.queue.outcomeOf(need.Key)
		if !need.Hard || !settled || outcome.Result != Failed {
			continue
		}
		switch {
		case need.Key.Group == "" && need.Key.Resource == "namespaces" && outcome.Reason == BeingDeleted:
			return "its namespace is being deleted", NamespaceTerminating
		case need.Key.Group == "" && need.Key.Resource == "namespaces" && outcome.Reason != Conflicting:
			return "its namespace did not come back", NamespaceMissing
		case isDefinition(need.Key) && outcome.Reason != Conflicting:
			return "its definition " + need.Key.Name + " did not come back", KindNotServed
		}
	}
	return "", ""
}

// prepare returns what to send for a captured object: without what each cluster fills by itself, with
// the ports and addresses it had, and changed as the plan says.
func (r *replay) prepare(ctx context.Context, key Key, captured Object) (Object, error) {
	wanted := r.normalise(key, stable(captured))
	switch (Key{Group: key.Group, Resource: key.Resource}) {
	case Key{Resource: "services"}:
		keepAddresses(wanted, captured)
	case Key{Resource: "persistentvolumeclaims"}:
		r.keepVolume(wanted, captured)
	case Key{Resource: "persistentvolumes"}:
		r.keepRelease(wanted, captured)
	case Key{Resource: "namespaces"}:
		keepRanges(wanted, captured)
	case Key{Group: "operators.coreos.com", Resource: "subscriptions"}:
		pinVersion(wanted, captured)
	}
	if status, found := captured["status"]; found && r.custom[Key{Group: key.Group, Resource: key.Resource}] {
		wanted["status"] = status // kinds without a status subresource keep it as any other field
	}
	return r.transform.apply(ctx, key, wanted)
}

// keepVolume names the claim's volume when that has come back as it was.
func (r *replay) keepVolume(wanted, captured Object) {
	name := captured.text("spec", "volumeName")
	outcome, uid, settled := r.queue.outcomeOf(Key{Resource: "persistentvolumes", Name: name})
	if spec, whole := wanted["spec"].(map[string]any); whole && settled && uid != "" && outcome.Result != Failed {
		spec["volumeName"] = name
	}
}

// keepRelease leaves a volume to the claim it was released by: without that claim's UID, the next claim of
// its name would get the volume, with somebody's data in it.
func (r *replay) keepRelease(wanted, captured Object) {
	fields, _ := at(captured, "spec", "claimRef").(map[string]any)
	claim := Object(fields)
	uid := claim.text("uid")
	reference, bound := at(wanted, "spec", "claimRef").(map[string]any)
	if _, lives := r.owners.find(ownerID{claim.text("namespace"), "PersistentVolumeClaim", claim.text("name"), uid}); bound && uid != "" && !lives {
		reference["uid"] = uid
	}
}

// keepRanges gives a namespace of OpenShift the user IDs it had: files on its volumes belong to them.
func keepRanges(wanted, captured Object) {
	annotations, _ := at(captured, "metadata", "annotations").(map[string]any)
	for key, value := range annotations {
		if text, ok := value.(string); ok && strings.HasPrefix(key, "openshift.io/sa.scc.") {
			setting{"annotations", key, &text}.apply(wanted)
		}
	}
}

// pinVersion lets a Subscription of OLM install the version that was installed, and none that came later.
func pinVersion(wanted, captured Object) {
	version := cmp.Or(captured.text("status", "installedCSV"), captured.text("spec", "startingCSV"))
	if spec, whole := wanted["spec"].(map[string]any); whole && version != "" {
		spec["startingCSV"] = version
	}
}

// adopt gives owner references the UIDs that the owners have in this cluster. An owner that does not
// come back is left out: the garbage collector would delete the object with it. So is one of a circle of
// owners, until reunite.
func (r *replay) adopt(ctx context.Context, w *want, captured []owner) error {
	references, _ := at(w.object, "metadata", "ownerReferences").([]any)
	if len(references) == 0 {
		return nil
	}
	var kept []any
	for _, entry := range references {
		reference, whole := entry.(map[string]any)
		if !whole {
			kept = append(kept, entry) // for the API server to refuse
			continue
		}
		o := ownerIn(reference)
		uid, coming, err := r.ownerUID(ctx, o, w.Namespace, captured)
		if err != nil {
			return err
		}
		if coming {
			r.mu.Lock()
			r.parted = append(r.parted, parted{want: w, captured: captured, references: clone(references).([]any)})
			r.mu.Unlock()
			continue
		}
		if uid == "" {
			r.note(Changed, w.Key(), fmt.Sprintf("created without its owner %s %s, which is not there", o.kind, o.name))
			continue
		}
		reference["uid"] = uid
		kept = append(kept, reference)
	}
	w.object.metadata()["ownerReferences"] = kept
	if len(kept) == 0 {
		delete(w.object.metadata(), "ownerReferences")
	}
	return nil
}

// ownerID is by what an object names an owner: its UID alone could be anybody's, and the garbage collector
// deletes what names an owner that is none.
type ownerID struct{ namespace, kind, name, uid string }

func (o ownerID) compare(other ownerID) int {
	return cmp.Or(
		strings.Compare(o.namespace, other.namespace), strings.Compare(o.kind, other.kind), strings.Compare(o.name, other.name), strings.Compare(o.uid, other.uid),
	)
}

// owners finds what others can name as owners. A map of all that would need many times the memory.
type owners struct {
	entries []Entry
	places  []int32 // in entries, in the order of their ownerIDs
}

func newOwners(entries []Entry) owners {
	o := owners{entries: entries}
	for i := range entries {
		if entries[i].UID != "" && entries[i].check() == nil {
			o.places = append(o.places, int32(i))
		}
	}
	slices.SortStableFunc(o.places, func(a, b int32) int { return o.id(a).compare(o.id(b)) })
	return o
}

func (o owners) id(place int32) ownerID {
	entry := &o.entries[place]
	return ownerID{entry.Namespace, entry.Kind, entry.Name, entry.UID}
}

func (o owners) find(id ownerID) (Entry, bool) {
	i, found := slices.BinarySearchFunc(o.places, id, func(place int32, id ownerID) int { return o.id(place).compare(id) })
	if !found {
		return Entry{}, false
	}
	return o.entries[o.places[i]], true
}

// ownerOf finds an owner in the recovery point: in the object's namespace, or in none.
func (r *replay) ownerOf(o owner, namespace string) (Entry, bool) {
	for _, namespace := range []string{namespace, ""} {
		if entry, found := r.owners.find(ownerID{namespace, o.kind, o.name, o.uid}); found {
			return entry, true
		}
	}
	return Entry{}, false
}

// ownerUID is empty for an owner that is not there; coming says that it is only not there yet. One that
// was passed over, or not selected, may stand in this cluster under the same name.
func (r *replay) ownerUID(ctx context.Context, o owner, namespace string, captured []owner) (uid string, coming bool, err error) {
	i := slices.IndexFunc(captured, func(c owner) bool { return c.kind == o.kind && c.name == o.name && c.group == o.group })
	if i < 0 {
		return o.uid, false, nil // a transformation wrote it
	}
	entry, known := r.ownerOf(captured[i], namespace)
	if !known {
		return "", false, nil
	}
	key := entry.Key()
	outcome, uid, settled := r.queue.outcomeOf(key)
	_, replayed := r.queue.entryOf(key)
	if uid != "" || settled && outcome.Result == Failed || replayed && !settled {
		return uid, replayed && !settled, nil
	}
	living, err := r.get(ctx, resourceOf(entry), r.transform.key(key))
	if statusCode(err) == http.StatusNotFound {
		return "", false, nil
	}
	return living.uid(), false, err
}

// parted is an object that was created before one of its owners: they own each other.
type parted struct {
	*want
	captured   []owner
	references []any // whole, without UIDs
}

// reunite gives such objects all their owners, now that these are there.
func (r *replay) reunite(ctx context.Context) error {
	for _, p := range r.parted {
		if p.outcome.Result != Created && p.outcome.Result != Recreated {
			continue
		}
		whole := &want{task: p.task, key: p.key, object: Object{"metadata": map[string]any{"ownerReferences": p.references}}}
		if err := r.adopt(ctx, whole, p.captured); err != nil {
			return err
		}
		if err := r.patch(ctx, p.resource(), p.key, whole.object); ignoreRefusal(err) != nil {
			return err
		}
	}
	return nil
}

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
	if madeByController(w.key) && w.policy.OnConflict == KeepExisting {
		return r.replace(ctx, w, living)
	}
	switch w.policy.OnConflict {
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
	write := request{method: method, path: objectPath(w.resource(), w.key), body: appendCanonical(nil, object)}
	if method == http.MethodPatch {
		write.contentType = "application/apply-patch+yaml" // JSON is YAML
		write.query = url.Values{"fieldManager": {"muster"}, "force": {"true"}}
	}
	return r.Client.call(ctx, write, into)
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

// create returns the metadata of what was created. The API server need not look for unknown fields twice:
// it drops them in any case, and nobody reads its warnings.
func (r *replay) create(ctx context.Context, w *want) (Object, error) {
	body, err := json.Marshal(w.object)
	if err != nil {
		return nil, fault.New("replay", fault.Corrupt, w.key.String(), err)
	}
	if err := r.Client.writes.enter(ctx); err != nil {
		return nil, err
	}
	var living Object
	err = r.Client.call(ctx, request{
		method: http.MethodPost, path: w.resource().path(w.key.Namespace), query: url.Values{"fieldValidation": {"Ignore"}}, accept: onlyMetadata, body: body,
	}, &living)
	r.Client.writes.leave(err == nil || statusCode(err) != 0 && statusCode(err) != http.StatusTooManyRequests)
	return living, err
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
