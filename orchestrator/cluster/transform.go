package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// Transformation changes objects on their way into another cluster. What it names is done in the order
// of the fields here.
type Transformation struct {
	// Kinds, Namespaces and Selector choose objects, as they were captured: see Policy.
	Kinds      []string `yaml:"kinds,omitempty" json:"kinds,omitempty"`
	Namespaces []string `yaml:"namespaces,omitempty" json:"namespaces,omitempty"`
	Selector   string   `yaml:"selector,omitempty" json:"selector,omitempty"`
	// Namespace gives namespaces other names, wherever they are named: it goes with no choice of objects.
	Namespace map[string]string `yaml:"namespace,omitempty" json:"namespace,omitempty"`
	// StorageClass maps classes of claims, volumes and claim templates.
	StorageClass map[string]string `yaml:"storageClass,omitempty" json:"storageClass,omitempty"`
	// Host maps domains: a host is one of them or stands below it.
	Host map[string]string `yaml:"host,omitempty" json:"host,omitempty"`
	// Image maps how names of images begin, up to a slash, colon or @.
	Image map[string]string `yaml:"image,omitempty" json:"image,omitempty"`
	// Region, Zone and Node map the values of the well-known labels, wherever they are asked for.
	Region map[string]string `yaml:"region,omitempty" json:"region,omitempty"`
	Zone   map[string]string `yaml:"zone,omitempty" json:"zone,omitempty"`
	Node   map[string]string `yaml:"node,omitempty" json:"node,omitempty"`
	// Labels and Annotations are set; null removes.
	Labels      map[string]*string `yaml:"labels,omitempty" json:"labels,omitempty"`
	Annotations map[string]*string `yaml:"annotations,omitempty" json:"annotations,omitempty"`
	// JSONPatch is a list of operations (RFC 6902).
	JSONPatch []map[string]any `yaml:"jsonPatch,omitempty" json:"jsonPatch,omitempty"`
	// Merge is a strategic merge patch of a built-in kind, and a JSON merge patch (RFC 7386) of others.
	Merge map[string]any `yaml:"merge,omitempty" json:"merge,omitempty"`
	// CEL is an expression over `object` that gives a JSON merge patch.
	CEL string `yaml:"cel,omitempty" json:"cel,omitempty"`
}

// transformer is a list of transformations that was checked.
type transformer struct {
	steps      []transformStep
	namespaces map[string]string
}

type transformStep struct {
	target
	maps  mapping
	set   []setting
	patch jsonpatch.Patch
	merge Object
	cel   *plans.Change
}

// setting is one label or annotation; a nil value removes it.
type setting struct {
	in, key string
	value   *string
}

func newTransformer(list []Transformation) (*transformer, error) {
	t := &transformer{namespaces: map[string]string{}}
	for i, described := range list {
		step, err := newTransformStep(described)
		if err != nil {
			return nil, fault.New("read transformation", fault.Invalid, fmt.Sprintf("number %d", i+1), err)
		}
		for old, name := range described.Namespace {
			if before, known := t.namespaces[old]; known && before != name {
				return nil, fault.Newf("read transformation", fault.Invalid, fmt.Sprintf("number %d", i+1), "namespace %s has another new name already: %s", old, before)
			}
			t.namespaces[old] = name
		}
		t.steps = append(t.steps, step)
	}
	return t, nil
}

func newTransformStep(d Transformation) (transformStep, error) {
	chosen, err := newTarget(d.Kinds, d.Namespaces, d.Selector)
	if err != nil {
		return transformStep{}, err
	}
	if len(d.Namespace) > 0 && (len(d.Kinds) > 0 || len(d.Namespaces) > 0 || d.Selector != "") {
		return transformStep{}, fmt.Errorf("a new name of a namespace holds for all objects: put `namespace` into an entry without kinds, namespaces and selector")
	}
	step := transformStep{target: chosen, maps: newMapping(d)}
	for _, in := range []struct {
		name   string
		values map[string]*string
	}{{"labels", d.Labels}, {"annotations", d.Annotations}} {
		for key, value := range in.values {
			step.set = append(step.set, setting{in.name, key, value})
		}
	}
	if len(d.JSONPatch) > 0 {
		raw, err := json.Marshal(d.JSONPatch)
		if err != nil {
			return step, err
		}
		if step.patch, err = jsonpatch.DecodePatch(raw); err != nil {
			return step, fmt.Errorf("jsonPatch: %w", err)
		}
		if err := checkPatch(step.patch); err != nil {
			return step, err
		}
	}
	if len(d.Merge) > 0 {
		if step.merge, err = objectOf(d.Merge); err != nil {
			return step, fmt.Errorf("merge: %w", err)
		}
	}
	if d.CEL != "" {
		if step.cel, err = plans.NewChange(d.CEL, "object"); err != nil {
			return step, fmt.Errorf("cel: %w", err)
		}
	}
	return step, nil
}

func checkPatch(patch jsonpatch.Patch) error {
	for i, operation := range patch {
		known := []string{"add", "remove", "replace", "move", "copy", "test"}
		if !slices.Contains(known, operation.Kind()) {
			return fmt.Errorf("jsonPatch: operation %d is %q: want one of %v", i+1, operation.Kind(), known)
		}
		if path, err := operation.Path(); err != nil || path == "" || path[0] != '/' {
			return fmt.Errorf("jsonPatch: operation %d needs a path that begins with /", i+1)
		}
	}
	return nil
}

// objectOf is a map of YAML as the objects here hold it: numbers as json.Number.
func objectOf(value map[string]any) (Object, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return decodeObject(raw)
}

// key is where an object stands in the cluster, as far as namespaces say so: before patches.
func (t *transformer) key(key Key) Key {
	if name, found := t.namespaces[key.Namespace]; found {
		key.Namespace = name
	}
	if name, found := t.namespaces[key.Name]; found && key.Group == "" && key.Resource == "namespaces" {
		key.Name = name
	}
	return key
}

// apply returns the object as it is to be created. The object is the caller's own and may be changed.
func (t *transformer) apply(ctx context.Context, key Key, o Object) (Object, error) {
	choice := Object(map[string]any{"metadata": map[string]any{"labels": at(o, "metadata", "labels")}})
	changed, kind := o, o.kind()
	for i, step := range t.steps {
		if !step.fits(key, choice) {
			continue
		}
		var err error
		if changed, err = step.apply(ctx, changed); err != nil {
			return nil, fault.New("transform", fault.Invalid, key.String(), fmt.Errorf("transformation %d: %w", i+1, err))
		}
		if !keepsPlace(key, kind, changed) {
			return nil, fault.Newf("transform", fault.Invalid, key.String(), "transformation %d took its name, namespace, kind or version", i+1)
		}
	}
	return changed, nil
}

// keepsPlace reports whether a changed object still is one of its kind, and in a namespace if it was in
// one. Its version and names become parts of paths.
func keepsPlace(key Key, kind string, o Object) bool {
	_, version := splitVersion(o.text("apiVersion"))
	return o.kind() == kind && isName(o.name()) && isSegment(version) && (o.namespace() == "") == (key.Namespace == "") &&
		(o.namespace() == "" || isSegment(o.namespace()))
}

func (s transformStep) apply(ctx context.Context, o Object) (Object, error) {
	s.maps.apply(o)
	for _, setting := range s.set {
		setting.apply(o)
	}
	var err error
	if s.patch != nil {
		if o, err = patched(o, s.patch.Apply); err != nil {
			return nil, fmt.Errorf("jsonPatch: %w", err)
		}
	}
	if s.merge != nil {
		if o, err = merged(o, s.merge); err != nil {
			return nil, fmt.Errorf("merge: %w", err)
		}
	}
	if s.cel != nil {
		if o, err = computed(ctx, o, s.cel); err != nil {
			return nil, fmt.Errorf("cel: %w", err)
		}
	}
	return o, nil
}

// computed applies the merge patch that an expression gives.
func computed(ctx context.Context, o Object, change *plans.Change) (Object, error) {
	fields, err := change.Fields(ctx, map[string]any{"object": map[string]any(o)})
	if err != nil || len(fields) == 0 {
		return o, err
	}
	patch, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	return patched(o, func(text []byte) ([]byte, error) { return jsonpatch.MergePatch(text, patch) })
}

func (s setting) apply(o Object) {
	metadata := o.metadata()
	values, _ := metadata[s.in].(map[string]any)
	if s.value == nil {
		remove(o, "metadata", s.in, s.key)
		return
	}
	if values == nil {
		values = map[string]any{}
		metadata[s.in] = values
	}
	values[s.key] = *s.value
}

func patched(o Object, apply func([]byte) ([]byte, error)) (Object, error) {
	raw, err := apply(appendCanonical(nil, o))
	if err != nil {
		return nil, err
	}
	return decodeObject(raw)
}

// merged applies a strategic merge patch where the kind's fields are known, else a JSON merge patch.
func merged(o, patch Object) (Object, error) {
	raw := appendCanonical(nil, patch)
	return patched(o, func(text []byte) ([]byte, error) {
		kind, err := scheme.Scheme.New(schema.FromAPIVersionAndKind(o.text("apiVersion"), o.kind()))
		if err != nil {
			return jsonpatch.MergePatch(text, raw)
		}
		return strategicpatch.StrategicMergePatch(text, raw, kind)
	})
}
