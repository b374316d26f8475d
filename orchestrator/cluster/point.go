package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// Recorded is the namespaces layer of a recovery point.
type Recorded struct {
	Layer   repository.NamespacesLayer
	Entries []Entry
	// Load reads the YAML file of an entry. It is safe for concurrent use.
	Load func(ctx context.Context, id repository.ID) ([]byte, error)
}

// ReadPoint reads a point's index and checks it against the signed manifest. Errors: NotFound when
// the point has no namespaces layer, Corrupt when the index is not the one that was signed.
func ReadPoint(ctx context.Context, r *repository.Repository, id string) (Recorded, error) {
	point, err := r.Point(ctx, id)
	if err != nil {
		return Recorded{}, err
	}
	manifest, err := r.Manifest(ctx, point)
	if err != nil {
		return Recorded{}, err
	}
	if manifest.Namespaces == nil {
		return Recorded{}, fault.Newf("read recovery point", fault.NotFound, point.ID,
			"it holds no namespaces: its plan had no capture-namespaces step")
	}
	recorded := Recorded{Layer: *manifest.Namespaces, Load: loader(r)}
	if recorded.Entries, err = readPointIndex(ctx, r, point); err != nil {
		return Recorded{}, err
	}
	if IndexDigest(recorded.Entries) != manifest.Namespaces.Digest {
		return Recorded{}, fault.Newf("read recovery point", fault.Corrupt, point.ID,
			"%s is not what the manifest signs: run `muster points verify`", IndexPath)
	}
	return recorded, nil
}

func readPointIndex(ctx context.Context, r *repository.Repository, point repository.Point) ([]Entry, error) {
	reader, err := r.OpenPath(ctx, point, IndexPath)
	if err != nil {
		return nil, err
	}
	entries, err := ReadIndex(reader)
	return entries, errors.Join(err, reader.Close())
}

// read gives a captured object, and makes sure that it is the one that the index names: a recovery point
// is not to be believed more than its content. For errors that are the recovery point's own see unreadable.
func (r Recorded) read(ctx context.Context, entry Entry) (Object, error) {
	if err := entry.check(); err != nil {
		return nil, err
	}
	text, err := r.Load(ctx, entry.ID)
	if err != nil {
		return nil, fault.New("read object", fault.KindOf(err), entry.Path(), err)
	}
	object, err := parseFile(entry.Path(), text)
	if err != nil {
		return nil, err
	}
	return object, entry.names(object)
}

// unreadable says why a recovery point does not hold an object as its index says. It is empty when the
// repository can't tell now.
func unreadable(err error) Reason {
	switch fault.KindOf(err) {
	case fault.Corrupt, fault.NotFound:
		return Unreadable
	case fault.Invalid:
		return TooLarge
	}
	return ""
}

// objectBytes bounds an object's file. API servers take requests of 3 MiB; as YAML that can be several
// times as much.
const objectBytes = 32 << 20

func loader(r *repository.Repository) func(context.Context, repository.ID) ([]byte, error) {
	return func(ctx context.Context, id repository.ID) ([]byte, error) {
		reader, err := r.Open(ctx, id)
		if err != nil {
			return nil, err
		}
		if reader.Size() > objectBytes {
			return nil, errors.Join(fault.Newf("read object", fault.Invalid, string(id), "it has %d bytes: no API server takes an object of this size", reader.Size()), reader.Close())
		}
		text, err := io.ReadAll(reader)
		return text, errors.Join(err, reader.Close())
	}
}

// parseFile reads an object's YAML file.
func parseFile(path string, text []byte) (Object, error) {
	if hasAliases(text) {
		return nil, fault.Newf("read object", fault.Corrupt, path, "it refers to parts of itself: verify the recovery point")
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		// The parser quotes what it cannot read, and that can be a Secret.
		return nil, fault.Newf("read object", fault.Corrupt, path, "it is not YAML: verify the recovery point")
	}
	object, err := decodeObject(raw)
	if err != nil {
		return nil, fault.Newf("read object", fault.Corrupt, path, "it is not an object: verify the recovery point")
	}
	return object, nil
}

// hasAliases reports YAML that repeats parts of itself by name, which no capture writes: a few kilobytes
// of it can stand for more than any memory holds.
func hasAliases(text []byte) bool {
	if !bytes.ContainsRune(text, '&') || !bytes.ContainsRune(text, '*') {
		return false
	}
	var document yamlv3.Node
	return yamlv3.Unmarshal(text, &document) == nil && repeats(&document)
}

func repeats(node *yamlv3.Node) bool {
	return node.Kind == yamlv3.AliasNode || slices.ContainsFunc(node.Content, repeats)
}
