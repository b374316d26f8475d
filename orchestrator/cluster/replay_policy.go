package cluster

import (
	"path"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterdr/muster/providers/fault"
)

// Conflict says what becomes of an object that stands in the cluster already, with other content.
type Conflict string

// The answers to a conflict.
const (
	KeepExisting     Conflict = "keep"     // the object stays as it is, and is reported as lost
	SkipExisting     Conflict = "skip"     // the object stays as it is, as it should
	UpdateExisting   Conflict = "update"   // the recovery point's fields are applied; others stay
	ReplaceExisting  Conflict = "replace"  // the recovery point's content takes its place
	RecreateExisting Conflict = "recreate" // as replace; what can't be changed is deleted and created again
)

func conflicts() []Conflict {
	return []Conflict{KeepExisting, SkipExisting, UpdateExisting, ReplaceExisting, RecreateExisting}
}

// Policy says how some objects are replayed.
type Policy struct {
	// Kinds are "resource.group", or "resource" of the legacy group, with patterns; none means all.
	Kinds []string `yaml:"kinds,omitempty" json:"kinds,omitempty"`
	// Namespaces are patterns; none means all, and objects of no namespace.
	Namespaces []string `yaml:"namespaces,omitempty" json:"namespaces,omitempty"`
	// Selector chooses by labels: "app=web,tier!=test".
	Selector   string   `yaml:"selector,omitempty" json:"selector,omitempty"`
	OnConflict Conflict `yaml:"onConflict,omitempty" json:"onConflict,omitempty"`
	// Status writes the captured status too. Controllers mostly write a better one.
	Status bool `yaml:"status,omitempty" json:"status,omitempty"`
	// Prune deletes what stands in the replayed namespaces and not in the recovery point, but for what
	// has an owner or comes from the cluster itself.
	Prune bool `yaml:"prune,omitempty" json:"prune,omitempty"`
}

// policy is a Policy that was checked.
type policy struct {
	Policy
	target
}

// target chooses objects by kind, namespace and labels.
type target struct {
	kinds, namespaces []string
	labels            labels.Selector
}

func newTarget(kinds, namespaces []string, selector string) (target, error) {
	for _, pattern := range slices.Concat(kinds, namespaces) {
		if _, err := path.Match(pattern, ""); err != nil {
			return target{}, fault.New("read pattern", fault.Invalid, pattern, err)
		}
	}
	parsed, err := labels.Parse(selector)
	if err != nil {
		return target{}, fault.New("read selector", fault.Invalid, selector, err)
	}
	return target{kinds: kinds, namespaces: namespaces, labels: parsed}, nil
}

func (t target) fits(key Key, o Object) bool {
	if !t.fitsKind(key) {
		return false
	}
	if len(t.namespaces) > 0 && !slices.ContainsFunc(t.namespaces, func(p string) bool { return key.Namespace != "" && like(p, key.Namespace) }) {
		return false
	}
	return t.labels.Empty() || t.labels.Matches(labels.Set(o.labels()))
}

func (t target) fitsKind(key Key) bool {
	return len(t.kinds) == 0 || anyKind(t.kinds, key.Group, key.Resource)
}

// newPolicies checks policies, and ends their list with one that fits everything.
func newPolicies(list []Policy, otherwise Conflict) ([]*policy, error) {
	if otherwise == "" {
		otherwise = KeepExisting
	}
	var checked []*policy
	for _, p := range append(slices.Clone(list), Policy{OnConflict: otherwise}) {
		if p.OnConflict == "" {
			p.OnConflict = otherwise
		}
		if !slices.Contains(conflicts(), p.OnConflict) {
			return nil, fault.Newf("read policy", fault.Invalid, string(p.OnConflict), "onConflict is keep, skip, update, replace or recreate")
		}
		chosen, err := newTarget(p.Kinds, p.Namespaces, p.Selector)
		if err != nil {
			return nil, err
		}
		checked = append(checked, &policy{p, chosen})
	}
	return checked, nil
}

// policyOf is the first policy that fits.
func (r *replay) policyOf(key Key, o Object) *policy {
	i := slices.IndexFunc(r.policies, func(p *policy) bool { return p.fits(key, o) })
	return r.policies[i]
}

// prunes reports whether a living object that the recovery point does not hold is to go.
func (r *replay) prunes(key Key, living Object) bool {
	return r.policyOf(key, living).Prune && len(living.owners()) == 0 && r.excused(key, living) == "" && !madeByController(key)
}
