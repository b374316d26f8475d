package cluster

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Object is one API object: maps, slices, strings, json.Number, bool and nil. Numbers keep the
// digits that the server sent.
type Object map[string]any

// Key names an object within a cluster. Versions are no part of it: the same object can be read in
// several.
type Key struct {
	Group     string // empty for the legacy group
	Resource  string
	Namespace string // empty for cluster-scoped objects
	Name      string
}

// String gives the key as the digest of a cut sees it: "<group|core>/<resource>/<namespace>/<name>".
func (k Key) String() string {
	return groupDir(k.Group) + "/" + k.Resource + "/" + k.Namespace + "/" + k.Name
}

// Compare orders keys by group, resource, namespace and name, each by its bytes.
func (k Key) Compare(other Key) int {
	return cmp.Or(
		strings.Compare(k.Group, other.Group), strings.Compare(k.Resource, other.Resource),
		strings.Compare(k.Namespace, other.Namespace), strings.Compare(k.Name, other.Name),
	)
}

func groupDir(group string) string {
	if group == "" {
		return "core"
	}
	return group
}

// decodeObject reads one JSON object.
func decodeObject(raw []byte) (Object, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var object Object
	if err := decoder.Decode(&object); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one JSON value")
	}
	if object == nil {
		return nil, fmt.Errorf("null is no object")
	}
	return object, nil
}

func (o Object) metadata() map[string]any {
	metadata, _ := o["metadata"].(map[string]any)
	return metadata
}

// text reads a string at a path of map keys, empty when it is absent or something else.
func (o Object) text(path ...string) string {
	value, _ := at(o, path...).(string)
	return value
}

func (o Object) name() string      { return o.text("metadata", "name") }
func (o Object) namespace() string { return o.text("metadata", "namespace") }
func (o Object) uid() string       { return o.text("metadata", "uid") }
func (o Object) kind() string      { return o.text("kind") }

func (o Object) annotation(key string) (string, bool) {
	value, found := at(o, "metadata", "annotations", key).(string)
	return value, found
}

// owner is one of an object's owner references.
type owner struct {
	group, kind, name, uid string
	controller             bool
}

func (o Object) owners() []owner {
	list, _ := at(o, "metadata", "ownerReferences").([]any)
	var owners []owner
	for _, entry := range list {
		reference, ok := entry.(map[string]any)
		if !ok {
			continue
		}
		owners = append(owners, ownerIn(reference))
	}
	return owners
}

func ownerIn(reference Object) owner {
	controller, _ := reference["controller"].(bool)
	group, _ := splitVersion(reference.text("apiVersion"))
	return owner{
		group: group, kind: reference.kind(), name: reference.text("name"), uid: reference.text("uid"), controller: controller,
	}
}

// controlled reports whether a controller made the object and would make it again.
func (o Object) controlled() bool {
	for _, owner := range o.owners() {
		if owner.controller {
			return true
		}
	}
	return false
}

// splitVersion reads an apiVersion; the legacy group is empty.
func splitVersion(apiVersion string) (group, version string) {
	group, version, versioned := strings.Cut(apiVersion, "/")
	if !versioned {
		return "", group
	}
	return group, version
}

// at walks maps; nil when a step is missing.
func at(value any, path ...string) any {
	for _, key := range path {
		switch m := value.(type) {
		case Object:
			value = m[key]
		case map[string]any:
			value = m[key]
		default:
			return nil
		}
	}
	return value
}

// remove deletes the field at a path of map keys, and the maps that are empty without it.
func remove(value map[string]any, path ...string) {
	if len(path) == 1 {
		delete(value, path[0])
		return
	}
	inner, ok := value[path[0]].(map[string]any)
	if !ok {
		return
	}
	remove(inner, path[1:]...)
	if len(inner) == 0 {
		delete(value, path[0])
	}
}

func clone(value any) any {
	switch v := value.(type) {
	case Object:
		return Object(clone(map[string]any(v)).(map[string]any))
	case map[string]any:
		copied := make(map[string]any, len(v))
		for key, entry := range v {
			copied[key] = clone(entry)
		}
		return copied
	case []any:
		copied := make([]any, len(v))
		for i, entry := range v {
			copied[i] = clone(entry)
		}
		return copied
	}
	return value
}

// Digest returns the lower-case hexadecimal SHA-256 over the canonical JSON of the object without
// its volatile fields: keys sorted by byte, no white space, strings in UTF-8 with the fewest
// escapes, numbers with the digits of the server. UIDs, creation times and finalizers are covered.
func Digest(o Object) string {
	sum := sha256.Sum256(appendCanonical(nil, map[string]any(stable(o))))
	return hex.EncodeToString(sum[:])
}

// stable returns a shallow copy without volatile fields; it shares everything else with o. They are:
//
//   - status: what controllers observed; they observe it again
//   - metadata.resourceVersion: the revision of the last write, which every controller's write moves
//   - metadata.generation: counts changes of a spec that the digest covers itself
//   - metadata.managedFields: who wrote which field last; renewed with every status
//   - metadata.selfLink: no longer filled since Kubernetes 1.20
func stable(o Object) Object {
	copied := make(Object, len(o))
	for key, value := range o {
		copied[key] = value
	}
	delete(copied, "status")
	metadata := make(map[string]any, len(o.metadata()))
	for key, value := range o.metadata() {
		metadata[key] = value
	}
	for _, key := range []string{"resourceVersion", "generation", "managedFields", "selfLink"} {
		delete(metadata, key)
	}
	copied["metadata"] = metadata
	return copied
}

// stored returns what a recovery point keeps of an object: all of it but the fields that would make
// `kubectl create` refuse the file (resourceVersion, which the index keeps) and managedFields.
func stored(o Object) Object {
	copied := stable(o)
	if status, found := o["status"]; found {
		copied["status"] = status
	}
	if generation, found := o.metadata()["generation"]; found {
		copied.metadata()["generation"] = generation
	}
	return copied
}
