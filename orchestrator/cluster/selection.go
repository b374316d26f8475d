package cluster

import (
	"path"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// Selection says which objects of a cluster, or of a recovery point, are meant: those that fulfil all
// of it. Its zero value means all. Kinds, Selector, FieldSelector and Where are not asked about Namespace
// objects, which belong to what lives in them.
type Selection struct {
	// Include and Exclude are path.Match patterns of namespaces; no Include means all. Objects of no
	// namespace are meant in any case, but for the Namespace objects that these leave out.
	Include []string `yaml:"include,omitempty" json:"include,omitempty"`
	Exclude []string `yaml:"exclude,omitempty" json:"exclude,omitempty"`
	// Kinds and ExcludeKinds are resources: "resource.group", or "resource" of the legacy group, with
	// patterns. No Kinds means all.
	Kinds        []string `yaml:"kinds,omitempty" json:"kinds,omitempty"`
	ExcludeKinds []string `yaml:"excludeKinds,omitempty" json:"excludeKinds,omitempty"`
	// Selector is a Kubernetes label selector.
	Selector string `yaml:"selector,omitempty" json:"selector,omitempty"`
	// FieldSelector compares any field of an object: "metadata.name=web,spec.type!=NodePort". A field
	// that is not there is empty.
	FieldSelector string `yaml:"fieldSelector,omitempty" json:"fieldSelector,omitempty"`
	// Where is a CEL expression over `object`. An object that lacks what it reads is not meant.
	Where string `yaml:"where,omitempty" json:"where,omitempty"`
	// ClusterResources says which objects of no namespace are meant: AllClusterResources (the default),
	// NeededClusterResources or NoClusterResources.
	ClusterResources string `yaml:"clusterResources,omitempty" json:"clusterResources,omitempty"`
}

// The choices of ClusterResources.
const (
	AllClusterResources = "all"
	// NeededClusterResources are those that selected objects of namespaces refer to, and those that
	// refer to the namespaces: bindings of their service accounts, webhooks of their services. Kinds,
	// Selector, FieldSelector and Where then choose among the objects of namespaces alone.
	NeededClusterResources = "needed"
	NoClusterResources     = "none"
)

// Validate says what is wrong with a selection. It implements plans.Validator for steps that embed it.
func (s Selection) Validate() error {
	_, err := s.filter()
	return err
}

// NamesNamespaces says what is wrong when Include does not name each namespace, as who may look into
// some namespaces alone needs it.
func (s Selection) NamesNamespaces() error {
	if len(s.Include) == 0 || slices.ContainsFunc(s.Include, isPattern) {
		return fault.Newf("read selection", fault.Invalid, "include", "a service account sees namespaces one by one: name each of them, without patterns")
	}
	return nil
}

// recorded is the selection as a manifest keeps it; nil when it means everything.
func (s Selection) recorded() *repository.Selection {
	if reflect.ValueOf(s).IsZero() {
		return nil
	}
	recorded := repository.Selection(s)
	return &recorded
}

// filter makes a selection ready to be asked.
func (s Selection) filter() (*filter, error) {
	const op = "read selection"
	f := &filter{Selection: s}
	for _, pattern := range slices.Concat(s.Include, s.Exclude, s.Kinds, s.ExcludeKinds) {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fault.New(op, fault.Invalid, pattern, err)
		}
	}
	switch s.ClusterResources {
	case "", AllClusterResources, NeededClusterResources, NoClusterResources:
	default:
		return nil, fault.Newf(op, fault.Invalid, "clusterResources", "want all, needed or none")
	}
	var err error
	if f.labels, err = labels.Parse(s.Selector); err != nil {
		return nil, fault.New(op, fault.Invalid, "selector", err)
	}
	if f.fields, err = fields.ParseSelector(s.FieldSelector); err != nil {
		return nil, fault.New(op, fault.Invalid, "fieldSelector", err)
	}
	if s.Where == "" {
		return f, nil
	}
	if f.where, err = plans.NewCondition(s.Where, "object"); err != nil {
		return nil, fault.New(op, fault.Invalid, "where", err)
	}
	return f, nil
}
