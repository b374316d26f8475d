package cluster

import (
	"context"
	"fmt"
	"net/http"
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
	// dropped are fields that the cluster does not know, of the last write.
	dropped []string
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

// withDropped tells of fields that are lost with an object that came back.
func (w *want) withDropped(outcome Outcome) Outcome {
	if len(w.dropped) > 0 && outcome.Reason == "" {
		outcome.Reason, outcome.Message = FieldsDropped, "the cluster does not know, and dropped: "+strings.Join(w.dropped, ", ")
	}
	return outcome
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
		outcome = w.withDropped(outcome)
		switch {
		case outcome.Result == Failed:
			r.note(Lost, w.Key(), outcome.Message)
		case len(w.dropped) > 0:
			r.note(Changed, w.Key(), outcome.Message)
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
