package cluster

import (
	"slices"
	"strings"
)

// Reference is one object that another one names.
type Reference struct {
	Key Key
	// Why says how it is named: "env", "its owner", "roleRef".
	Why string
	// Hard says that the API server would refuse, or collect as garbage, what names it while it is not
	// there. Other references are only better kept.
	Hard bool
}

// resolver gives the resource of a kind, and whether its objects live in namespaces.
type resolver func(group, kind string) (resource string, namespaced, found bool)

// resolverOf knows the kinds among resources.
func resolverOf(resources []Resource) resolver {
	type groupKind struct{ group, kind string }
	known := make(map[groupKind]Resource, len(resources))
	for _, r := range resources {
		known[groupKind{r.Group, r.Kind}] = r
	}
	return func(group, kind string) (string, bool, bool) {
		r, found := known[groupKind{group, kind}]
		return r.Name, r.Namespaced, found
	}
}

// references lists the objects that an object names, each once, in no order of importance. It reads
// names, not the cluster: what is named need not exist, and two objects can name each other, as a
// claim and its volume do; hard references alone have no cycles. Kinds that resolve does not know are
// passed over.
//
// A field is known by how its path ends, wherever it stands: so pod templates are found in every
// workload, those of custom resources too.
func references(key Key, o Object, resolve resolver) []Reference {
	n := &naming{key: key, resolve: resolve, places: map[Key]int{}}
	n.place()
	n.owners(o)
	n.marks(o)
	for field, value := range o {
		if !slices.Contains(withoutNames(), field) {
			n.walk(value, []string{field}, nil)
		}
	}
	return n.found
}

// withoutNames are the top-level fields that name nothing, or that hold a user's own keys.
func withoutNames() []string {
	return []string{"apiVersion", "kind", "metadata", "status", "data", "stringData", "binaryData"}
}

// naming collects the references of one object.
type naming struct {
	key     Key
	resolve resolver
	found   []Reference
	places  map[Key]int // of the keys in found
}

func (n *naming) add(to Key, why string, hard bool) {
	if to.Name == "" || to == n.key {
		return
	}
	if i, again := n.places[to]; again {
		n.found[i].Hard = n.found[i].Hard || hard
		return
	}
	n.places[to] = len(n.found)
	n.found = append(n.found, Reference{Key: to, Why: why, Hard: hard})
}

// place adds what every object of a kind and a namespace needs.
func (n *naming) place() {
	if n.key.Namespace != "" {
		n.add(Key{Resource: "namespaces", Name: n.key.Namespace}, "its namespace", true)
	}
	if customGroup(n.key.Group) {
		n.add(Key{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Name: n.key.Resource + "." + n.key.Group}, "its definition", true)
	}
	if n.key.Group == "" && n.key.Resource == "endpoints" {
		n.add(Key{Resource: "services", Namespace: n.key.Namespace, Name: n.key.Name}, "its service", false)
	}
}

// customGroup reports whether a group is none of the API server's own. Another API server may serve
// it: then there is no definition of the name.
func customGroup(group string) bool {
	own := []string{
		"admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
		"certificates.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io", "flowcontrol.apiserver.k8s.io",
		"internal.apiserver.k8s.io", "networking.k8s.io", "node.k8s.io", "rbac.authorization.k8s.io", "resource.k8s.io",
		"scheduling.k8s.io", "storage.k8s.io", "storagemigration.k8s.io",
	}
	return strings.Contains(group, ".") && !slices.Contains(own, group)
}

func (n *naming) owners(o Object) {
	for _, owner := range o.owners() {
		n.kind(owner.group, owner.kind, n.key.Namespace, owner.name, "its owner", true)
	}
}

// marks adds what annotations, labels and a status name.
func (n *naming) marks(o Object) {
	for _, mark := range marks() {
		if mark.of != "" && mark.of != n.key.Resource {
			continue
		}
		to := Key{Group: mark.group, Resource: mark.resource, Name: o.text(mark.path...)}
		if !mark.clusterScoped {
			to.Namespace = n.key.Namespace
		}
		n.add(to, mark.why, mark.hard)
	}
}

// mark is one field at a fixed path that names an object.
type mark struct {
	of              string // the resource that carries it; empty means any
	path            []string
	group, resource string
	clusterScoped   bool
	hard            bool
	why             string
}

func marks() []mark {
	annotation := func(key string) []string { return []string{"metadata", "annotations", key} }
	return []mark{
		{of: "secrets", path: annotation("kubernetes.io/service-account.name"), resource: "serviceaccounts", hard: true, why: "the account of the token"},
		{of: "ingresses", path: annotation("kubernetes.io/ingress.class"), group: "networking.k8s.io", resource: "ingressclasses", clusterScoped: true, why: "its class"},
		{of: "persistentvolumeclaims", path: annotation("volume.beta.kubernetes.io/storage-class"), group: "storage.k8s.io", resource: "storageclasses", clusterScoped: true, why: "its class"},
		{path: annotation("cert-manager.io/issuer"), group: "cert-manager.io", resource: "issuers", why: "the issuer of its certificate"},
		{path: annotation("cert-manager.io/cluster-issuer"), group: "cert-manager.io", resource: "clusterissuers", clusterScoped: true, why: "the issuer of its certificate"},
		{of: "endpointslices", path: []string{"metadata", "labels", "kubernetes.io/service-name"}, resource: "services", why: "its service"},
		{of: "volumesnapshots", path: []string{"status", "boundVolumeSnapshotContentName"}, group: "snapshot.storage.k8s.io", resource: "volumesnapshotcontents", clusterScoped: true, why: "its content"},
	}
}

// walk visits every field below value. path leads to it, without positions in lists; parent is the
// map that holds it.
func (n *naming) walk(value any, path []string, parent map[string]any) {
	switch v := value.(type) {
	case map[string]any:
		n.typed(v, path)
		n.parameters(v)
		for field, inner := range v {
			n.walk(inner, append(path, field), v)
		}
	case []any:
		for _, inner := range v {
			n.walk(inner, path, parent)
		}
	case string:
		n.name(v, path, parent)
	}
}

// name adds what a text names by the end of its path.
func (n *naming) name(text string, path []string, parent map[string]any) {
	if account, found := strings.CutPrefix(text, "system:serviceaccount:"); found {
		namespace, name, _ := strings.Cut(account, ":")
		n.add(Key{Resource: "serviceaccounts", Namespace: namespace, Name: name}, "the account", false)
		return
	}
	if namespace, found := strings.CutPrefix(text, "system:serviceaccounts:"); found {
		n.add(Key{Resource: "namespaces", Name: namespace}, "its accounts", false)
		return
	}
	for _, field := range namingFields[path[len(path)-1]] {
		if !field.fits(n.key, path) {
			continue
		}
		to := Key{Group: field.group, Resource: field.resource, Name: text}
		if !field.clusterScoped {
			to.Namespace = n.namespaceIn(parent)
		}
		n.add(to, field.why, field.admission && n.key.Group == "" && n.key.Resource == "pods")
	}
}

// namespaceIn is the namespace that stands beside a name; else the object's own.
func (n *naming) namespaceIn(parent map[string]any) string {
	if namespace := Object(parent).text("namespace"); namespace != "" {
		return namespace
	}
	return n.key.Namespace
}

// typed adds what a map with a kind and a name refers to: owners, targets, sources, roles, subjects.
func (n *naming) typed(m map[string]any, path []string) {
	r := Object(m)
	group, kind := r.text("apiGroup")+r.text("group"), r.kind()
	if version := r.text("apiVersion"); version != "" {
		group, _ = splitVersion(version)
	}
	if usual, found := usualKinds[path[len(path)-1]]; found && kind == "" {
		kind = usual.kind
		if group == "" {
			group = usual.group
		}
	}
	if group == "" && (kind == "Issuer" || kind == "ClusterIssuer") { // cert-manager's own group goes without saying
		group = "cert-manager.io"
	}
	n.kind(group, kind, n.namespaceIn(m), r.text("name"), path[len(path)-1], false)
}

type groupKind struct{ group, kind string }

// usualKinds are what a reference without a kind refers to.
var usualKinds = map[string]groupKind{
	"parentRefs":      {"gateway.networking.k8s.io", "Gateway"},
	"backendRefs":     {"", "Service"},
	"certificateRefs": {"", "Secret"},
	"issuerRef":       {"cert-manager.io", "Issuer"},
}

// kind adds an object that is named by its kind.
func (n *naming) kind(group, kind, namespace, name, why string, hard bool) {
	if kind == "" {
		return
	}
	if stream, found := streamOf(kind, name); found {
		n.add(Key{Group: "image.openshift.io", Resource: "imagestreams", Namespace: namespace, Name: stream}, why, hard)
		return
	}
	resource, namespaced, found := n.resolve(group, kind)
	if !found {
		return
	}
	if !namespaced {
		namespace = ""
	}
	n.add(Key{Group: group, Resource: resource, Namespace: namespace, Name: name}, why, hard)
}

// streamOf gives the image stream of a tag or an image of it. A tag without a stream is the
// object's own.
func streamOf(kind, name string) (string, bool) {
	separator := map[string]string{"ImageStreamTag": ":", "ImageStreamImage": "@"}[kind]
	if separator == "" {
		return "", false
	}
	stream, _, found := strings.Cut(name, separator)
	return stream, found
}

// parameters adds the Secrets that a class hands to its CSI driver:
// "csi.storage.k8s.io/provisioner-secret-name" and "…-namespace". Templates name none.
func (n *naming) parameters(m map[string]any) {
	for field, value := range m {
		prefix, found := strings.CutSuffix(field, "-secret-name")
		if !found {
			continue
		}
		name, _ := value.(string)
		namespace := Object(m).text(prefix + "-secret-namespace")
		if namespace != "" && !strings.Contains(name+namespace, "${") {
			n.add(Key{Resource: "secrets", Namespace: namespace, Name: name}, "parameters", false)
		}
	}
}
