package cluster

import (
	"cmp"
	"context"
	"strings"
)

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
