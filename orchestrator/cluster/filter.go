package cluster

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/repository"
)

// filter is a selection that can be asked.
type filter struct {
	Selection
	labels labels.Selector
	fields fields.Selector
	where  *plans.Condition // nil means true

	// absent is what a capture passed over besides: kinds, or kinds in one namespace.
	absent []absence
}

type absence struct{ kinds, namespace string } // patterns; no namespace means everywhere

// resources drops the kinds that are not meant and says what is left out. Excluded kinds are named; of
// all others that a plan does not take, one line tells.
func (f *filter) resources(all []Resource) ([]Resource, []repository.LeftOut) {
	var kept []Resource
	var left []repository.LeftOut
	for _, r := range all {
		switch {
		case f.dropsKind(r.Group, r.Name):
			left = append(left, repository.LeftOut{Subject: r.subject(), Reason: "the plan excludes this kind"})
		case f.otherKinds(r.Group, r.Name, r.Namespaced), !r.Namespaced && f.ClusterResources == NoClusterResources:
		default:
			kept = append(kept, r)
		}
	}
	return kept, append(left, f.left()...)
}

// left tells what a selection leaves out, but for excluded kinds.
func (f *filter) left() []repository.LeftOut {
	var left []repository.LeftOut
	add := func(subject, reason string) {
		left = append(left, repository.LeftOut{Subject: subject, Reason: reason})
	}
	for _, pattern := range f.Exclude {
		add(excludedNamespace+pattern, "the plan excludes this namespace")
	}
	if len(f.Include) > 0 {
		add(includedNamespaces+strings.Join(f.Include, ", "), "the plan includes these alone")
	}
	if len(f.Kinds) > 0 {
		add("kinds other than "+strings.Join(f.Kinds, ", "), "the plan takes these alone")
	}
	switch f.ClusterResources {
	case NeededClusterResources:
		add("objects of no namespace that nothing selected needs", "the plan takes needed ones alone")
	case NoClusterResources:
		add("objects of no namespace", "the plan takes none of them")
	}
	for name, value := range map[string]string{"selector": f.Selector, "fieldSelector": f.FieldSelector, "where": f.Where} {
		if value != "" {
			add("objects that do not fulfil "+name+" "+value, "the plan selects these alone")
		}
	}
	return left
}

func (f *filter) needed() bool { return f.ClusterResources == NeededClusterResources }

// dropsKind reports whether a kind is excluded.
func (f *filter) dropsKind(group, resource string) bool {
	return anyKind(f.ExcludeKinds, group, resource)
}

// otherKinds reports whether the plan names kinds, and this is none of them. Namespace objects belong to
// what lives in them, and needed objects of no namespace are of any kind.
func (f *filter) otherKinds(group, resource string, namespaced bool) bool {
	if group == "" && resource == "namespaces" {
		return false
	}
	return len(f.Kinds) > 0 && (namespaced || !f.needed()) && !anyKind(f.Kinds, group, resource)
}

func anyKind(patterns []string, group, resource string) bool {
	full := resource + "." + groupDir(group)
	return slices.ContainsFunc(patterns, func(p string) bool { return like(p, full) || group == "" && like(p, resource) })
}

// skips reports whether an object is not meant. Whether an object of no namespace is needed is not
// its question.
func (f *filter) skips(ctx context.Context, key Key, object Object) (bool, error) {
	if f.skipsKey(key) {
		return true, nil
	}
	if key.isNamespace() || key.Namespace == "" && f.needed() {
		return false, nil
	}
	if !f.labels.Empty() && !f.labels.Matches(labels.Set(object.labels())) || !f.fields.Matches(objectFields(object)) {
		return true, nil
	}
	if f.where == nil {
		return false, nil
	}
	holds, err := f.where.Holds(ctx, map[string]any{"object": map[string]any(object)})
	if lacking(err) {
		return true, nil
	}
	return !holds, err
}

// readsObjects reports whether it takes more than keys to tell what is meant.
func (f *filter) readsObjects() bool {
	return f.needed() || f.where != nil || !f.labels.Empty() || !f.fields.Empty()
}

// lacking reports whether an expression read something that an object does not have, or has of
// another type. What ran into the limits of expressions is no answer.
func lacking(err error) bool {
	said := func(text string) bool { return strings.Contains(err.Error(), text) }
	return err != nil && (said("no such key") || said("no such overload") || said("unsupported index type") || said("index out of bounds"))
}

// skipsKey reports whether the key alone tells that an object is not meant.
func (f *filter) skipsKey(k Key) bool {
	if f.dropsKind(k.Group, k.Resource) || f.otherKinds(k.Group, k.Resource, k.Namespace != "") || f.isAbsent(k) {
		return true
	}
	switch {
	case k.Namespace != "":
		return f.skipsNamespace(k.Namespace)
	case f.ClusterResources == NoClusterResources:
		return true
	}
	return k.isNamespace() && f.skipsNamespace(k.Name)
}

func (f *filter) isAbsent(k Key) bool {
	return slices.ContainsFunc(f.absent, func(a absence) bool {
		return anyKind([]string{a.kinds}, k.Group, k.Resource) && (a.namespace == "" || a.namespace == k.Namespace)
	})
}

func (f *filter) skipsNamespace(name string) bool {
	matches := func(pattern string) bool { return like(pattern, name) }
	return slices.ContainsFunc(f.Exclude, matches) || len(f.Include) > 0 && !slices.ContainsFunc(f.Include, matches)
}

// namespaces lists the namespaces that are meant when the selection names each of them; nil when it
// does not.
func (f *filter) namespaces() []string {
	if slices.ContainsFunc(f.Include, isPattern) {
		return nil
	}
	var names []string
	for _, name := range f.Include {
		if !f.skipsNamespace(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func isPattern(text string) bool { return strings.ContainsAny(text, `*?[\`) }

func (k Key) isNamespace() bool { return k.Group == "" && k.Resource == "namespaces" }

func (o Object) labels() map[string]string {
	entries, _ := at(o, "metadata", "labels").(map[string]any)
	labels := make(map[string]string, len(entries))
	for key, value := range entries {
		labels[key], _ = value.(string)
	}
	return labels
}

// scopes are the lists, one at least, that together hold what is selected of a resource. Namespaces that the plan
// names are listed one by one: the others' objects then never leave the server.
func (f *filter) scopes(r Resource) []scope {
	all := scope{Resource: r}
	isNamespaces := r.Group == "" && r.Name == "namespaces"
	if !r.Foreign && !isNamespaces && (r.Namespaced || !f.needed()) { // a foreign server may not know selectors
		all.selector = f.Selector
	}
	namespaces := f.namespaces()
	if !r.Namespaced || namespaces == nil {
		return []scope{all}
	}
	var scopes []scope
	for _, namespace := range namespaces {
		one := all
		one.namespace = namespace
		scopes = append(scopes, one)
	}
	return scopes
}

// objectFields lets a field selector read an object.
type objectFields Object

// Has implements fields.Fields.
func (o objectFields) Has(field string) bool { return o.Get(field) != "" }

// Get implements fields.Fields.
func (o objectFields) Get(field string) string {
	switch value := at(Object(o), strings.Split(field, ".")...).(type) {
	case nil, map[string]any, []any:
		return ""
	default:
		return fmt.Sprint(value)
	}
}

func sortLeft(left []repository.LeftOut) {
	sort.Slice(left, func(i, j int) bool { return left[i].Subject < left[j].Subject })
}

const (
	excludedNamespace  = "namespace "
	includedNamespaces = "namespaces other than "
	inNamespace        = " in namespace "
)

// filterOf reads back from a manifest what its capture passed over, so that a comparison looks at
// the same objects. A kind that was left out is passed over whatever the reason was.
func filterOf(layer repository.NamespacesLayer) (*filter, error) {
	selection := selectionOf(layer)
	f, err := selection.filter()
	if err != nil {
		return nil, err
	}
	for _, left := range layer.Left {
		if left.Reason == foreignKind {
			continue
		}
		kinds, namespace, _ := strings.Cut(left.Subject, inNamespace)
		f.absent = append(f.absent, absence{kinds, namespace})
	}
	return f, nil
}

// selectionOf is the selection of a capture. Manifests from before there were selections tell it in
// what they left out.
func selectionOf(layer repository.NamespacesLayer) Selection {
	if layer.Selection != nil {
		return Selection(*layer.Selection)
	}
	var s Selection
	for _, left := range layer.Left {
		if list, found := strings.CutPrefix(left.Subject, includedNamespaces); found {
			s.Include = strings.Split(list, ", ")
		}
		if pattern, found := strings.CutPrefix(left.Subject, excludedNamespace); found {
			s.Exclude = append(s.Exclude, pattern)
		}
	}
	return s
}

// foreignKind is the reason of a kind that was captured, but not at the revision.
const foreignKind = "another API server keeps it: listed at its newest state, not at the revision"
