package cluster

import (
	"context"
	"slices"
	"strings"
)

// isDefinition reports a CustomResourceDefinition.
func isDefinition(key Key) bool {
	return key.Group == "apiextensions.k8s.io" && key.Resource == "customresourcedefinitions"
}

// definedBy is the kind, as a key without a name, that a definition's name stands for:
// "<resource>.<group>".
func definedBy(name string) Key {
	resource, group, _ := strings.Cut(name, ".")
	return Key{Group: group, Resource: resource}
}

// established waits until a new definition's kind is served. One that the cluster does not accept
// holds up its own objects alone.
func (r *replay) established(ctx context.Context, w *want) error {
	if !isDefinition(w.key) {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, r.Wait)
	defer cancel()
	_ = until(waiting, func() (bool, error) { // what is not served when the time is up shows in its objects
		definition, err := r.get(waiting, w.resource(), w.key)
		return err == nil && established(definition), err
	})
	return ctx.Err()
}

func established(definition Object) bool {
	conditions, _ := at(definition, "status", "conditions").([]any)
	return slices.ContainsFunc(conditions, func(entry any) bool {
		return at(entry, "type") == "Established" && at(entry, "status") == "True"
	})
}
