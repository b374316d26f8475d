package cluster

import (
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// filter is what a plan leaves out of a capture or a replay.
type filter struct {
	include, exclude, kinds []string
}

func newFilter(include, exclude, kinds []string) (*filter, error) {
	f := &filter{include: include, exclude: exclude, kinds: kinds}
	for _, patterns := range [][]string{f.include, f.exclude, f.kinds} {
		for _, pattern := range patterns {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, fault.New("read filter", fault.Invalid, pattern, err)
			}
		}
	}
	return f, nil
}

// resources drops the excluded kinds and says which.
func (f *filter) resources(all []Resource) ([]Resource, []repository.LeftOut) {
	var kept []Resource
	var left []repository.LeftOut
	for _, r := range all {
		if f.dropsKind(r.Group, r.Name) {
			left = append(left, repository.LeftOut{Subject: r.Name + "." + groupDir(r.Group), Reason: "the plan excludes this kind"})
			continue
		}
		kept = append(kept, r)
	}
	for _, pattern := range f.exclude {
		left = append(left, repository.LeftOut{Subject: excludedNamespace + pattern, Reason: "the plan excludes this namespace"})
	}
	if len(f.include) > 0 {
		left = append(left, repository.LeftOut{
			Subject: includedNamespaces + strings.Join(f.include, ", "), Reason: "the plan includes these alone",
		})
	}
	return kept, left
}

func (f *filter) dropsKind(group, resource string) bool {
	full := resource + "." + groupDir(group)
	return slices.ContainsFunc(f.kinds, func(p string) bool { return like(p, full) || group == "" && like(p, resource) })
}

// skips reports whether an object is outside the wanted namespaces.
func (f *filter) skips(r Resource, object Object) bool {
	return f.skipsKey(Key{Group: r.Group, Resource: r.Name, Namespace: object.namespace(), Name: object.name()})
}

func (f *filter) skipsKey(k Key) bool {
	if k.Namespace != "" {
		return f.skipsNamespace(k.Namespace)
	}
	return k.Group == "" && k.Resource == "namespaces" && f.skipsNamespace(k.Name)
}

func (f *filter) skipsNamespace(name string) bool {
	matches := func(pattern string) bool { return like(pattern, name) }
	return slices.ContainsFunc(f.exclude, matches) || len(f.include) > 0 && !slices.ContainsFunc(f.include, matches)
}

func sortLeft(left []repository.LeftOut) {
	sort.Slice(left, func(i, j int) bool { return left[i].Subject < left[j].Subject })
}

const (
	excludedNamespace  = "namespace "
	includedNamespaces = "namespaces other than "
)

// filterOf reads back from a manifest what its capture passed over, so that a comparison looks at
// the same objects. An excluded kind is passed over whatever its reason was.
func filterOf(layer repository.NamespacesLayer) *filter {
	f := &filter{}
	for _, left := range layer.Left {
		if list, found := strings.CutPrefix(left.Subject, includedNamespaces); found {
			f.include = strings.Split(list, ", ")
			continue
		}
		if pattern, found := strings.CutPrefix(left.Subject, excludedNamespace); found {
			f.exclude = append(f.exclude, pattern)
			continue
		}
		if left.Reason != foreignKind {
			f.kinds = append(f.kinds, left.Subject)
		}
	}
	return f
}

// foreignKind is the reason of a kind that was captured, but not at the revision.
const foreignKind = "another API server keeps it: listed at its newest state, not at the revision"
