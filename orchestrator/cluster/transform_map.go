package cluster

import (
	"slices"
	"strings"
)

// mapping replaces values by other ones, wherever they stand in an object. Data of Secrets and
// ConfigMaps, and users' own labels and annotations, are never looked into.
type mapping struct {
	namespace, storageClass, host, image renames
	topology                             []topology
}

// topology is a mapping of the values of some labels of Nodes.
type topology struct {
	keys   []string
	values renames
}

// renames are pairs of old and new, the longest old ones first: the narrowest rule holds.
type renames []rename

type rename struct{ old, new string }

func newRenames(pairs map[string]string) renames {
	var list renames
	for old, name := range pairs {
		list = append(list, rename{old, name})
	}
	slices.SortFunc(list, func(a, b rename) int {
		if len(a.old) != len(b.old) {
			return len(b.old) - len(a.old)
		}
		return strings.Compare(a.old, b.old)
	})
	return list
}

func newMapping(d Transformation) mapping {
	return mapping{
		namespace: newRenames(d.Namespace), storageClass: newRenames(d.StorageClass), host: newRenames(d.Host), image: newRenames(d.Image),
		topology: []topology{
			{[]string{"topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"}, newRenames(d.Region)},
			{[]string{"topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"}, newRenames(d.Zone)},
			{[]string{"kubernetes.io/hostname", "nodeName"}, newRenames(d.Node)},
		},
	}
}

// exact maps a whole value.
func (r renames) exact(text string) string {
	for _, pair := range r {
		if text == pair.old {
			return pair.new
		}
	}
	return text
}

// domain maps a host that is the old domain or stands below it.
func (r renames) domain(host string) string {
	for _, pair := range r {
		if host == pair.old {
			return pair.new
		}
		if below, found := strings.CutSuffix(host, "."+pair.old); found {
			return below + "." + pair.new
		}
	}
	return host
}

// prefix maps how an image's name begins: a registry, or a part of it. What follows a colon is a tag
// only where a repository was named before; after a registry it is a port, and so another registry.
func (r renames) prefix(image string) string {
	for _, pair := range r {
		rest, found := strings.CutPrefix(image, pair.old)
		ends := "/@"
		if strings.Contains(pair.old, "/") {
			ends = "/@:"
		}
		if found && (rest == "" || strings.ContainsRune(ends, rune(rest[0]))) {
			return pair.new + rest
		}
	}
	return image
}

// account maps the namespace in the user and group names of service accounts.
func (r renames) account(text string) string {
	for _, prefix := range []string{"system:serviceaccount:", "system:serviceaccounts:"} {
		rest, found := strings.CutPrefix(text, prefix)
		if !found {
			continue
		}
		namespace, name, named := strings.Cut(rest, ":")
		if named {
			name = ":" + name
		}
		return prefix + r.exact(namespace) + name
	}
	return text
}

func (m mapping) apply(o Object) {
	metadata := o.metadata()
	if o.kind() == "Namespace" && o.text("apiVersion") == "v1" {
		metadata["name"] = m.namespace.exact(o.name())
	}
	if namespace := o.namespace(); namespace != "" {
		metadata["namespace"] = m.namespace.exact(namespace)
	}
	m.marks(metadata)
	for field, value := range o {
		if !slices.Contains(withoutNames(), field) {
			o[field] = m.value(field, value)
		}
	}
}

// marks maps the labels and annotations whose meaning is known.
func (m mapping) marks(metadata map[string]any) {
	labels, _ := metadata["labels"].(map[string]any)
	for key, value := range labels {
		if text, ok := value.(string); ok {
			labels[key] = m.label(key, text)
		}
	}
	annotations, _ := metadata["annotations"].(map[string]any)
	for key, value := range annotations {
		text, ok := value.(string)
		switch {
		case !ok:
		case key == "volume.beta.kubernetes.io/storage-class":
			annotations[key] = m.storageClass.exact(text)
		case key == "external-dns.alpha.kubernetes.io/hostname":
			annotations[key] = m.host.domain(text)
		}
	}
}

// label maps the value of a label that says where something runs.
func (m mapping) label(key, text string) string {
	if key == "kubernetes.io/metadata.name" {
		return m.namespace.exact(text)
	}
	for _, t := range m.topology {
		if slices.Contains(t.keys, key) {
			return t.values.exact(text)
		}
	}
	return text
}

// value maps what stands in a field.
func (m mapping) value(field string, value any) any {
	switch v := value.(type) {
	case map[string]any:
		m.object(v)
		return v
	case []any:
		for i, entry := range v {
			v[i] = m.value(field, entry)
		}
		return v
	case string:
		return m.text(field, v)
	}
	return value
}

// object maps the fields of a map. One that asks for a label by key and values, and one that names an
// image by kind and name, are read as a whole.
func (m mapping) object(v map[string]any) {
	if key, ok := v["key"].(string); ok {
		if values, ok := v["values"].([]any); ok {
			for i, value := range values {
				if text, ok := value.(string); ok {
					values[i] = m.label(key, text)
				}
			}
		}
	}
	if name, ok := v["name"].(string); ok && v["kind"] == "DockerImage" {
		v["name"] = m.image.prefix(name)
	}
	for field, value := range v {
		v[field] = m.value(field, value)
	}
}

func (m mapping) text(field, text string) string {
	switch field {
	case "namespace", "namespaces":
		return m.namespace.exact(text)
	case "storageClassName":
		return m.storageClass.exact(text)
	case "host", "hosts", "hostname", "hostnames", "dnsNames", "commonName", "externalName":
		return m.host.domain(text)
	case "image", "dockerImageReference":
		return m.image.prefix(text)
	}
	return m.namespace.account(m.label(field, text))
}
