package workload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Object is one object as the oracle sees it: everything a user wrote, nothing controllers refresh.
type Object struct {
	UID    string
	Digest string // hexadecimal SHA-256 over the canonical JSON of what counts
	// portable is the digest of what must be equal in another cluster, too.
	portable string
}

// State is every object of a cluster by "group/Kind/namespace/name".
type State map[string]Object

// ignoredKinds come and go with running processes, or are made again by controllers from others.
// They are the documented exceptions of a rebuild.
var ignoredKinds = map[string]string{
	"Event": "a log with an hour's life", "Lease": "renewed every few seconds",
	"EndpointSlice": "derived from Services and Pods", "Endpoints": "derived from Services and Pods",
	"CertificateSigningRequest": "a log with an hour's life", "ComponentStatus": "a view",
	"NodeMetrics": "a view", "PodMetrics": "a view", "IPAddress": "derived from Services",
}

// List reads every listable kind at one resource version; "" means now.
func List(ctx context.Context, config *rest.Config, resourceVersion string) (State, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, 0
	kinds, err := listable(config)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	state := State{}
	for _, kind := range kinds {
		options := metav1.ListOptions{}
		if resourceVersion != "" {
			options.ResourceVersion, options.ResourceVersionMatch = resourceVersion, metav1.ResourceVersionMatchExact
		}
		list, err := client.Resource(kind).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind, err)
		}
		for i := range list.Items {
			if err := state.add(kind.Group, &list.Items[i]); err != nil {
				return nil, err
			}
		}
	}
	return state, nil
}

// Read reads objects as JSON, one after the other.
func Read(r io.Reader) (State, error) {
	state, decoder := State{}, json.NewDecoder(r)
	for {
		var content map[string]any
		if err := decoder.Decode(&content); err == io.EOF {
			return state, nil
		} else if err != nil {
			return nil, err
		}
		object := &unstructured.Unstructured{Object: content}
		if _, ignored := ignoredKinds[object.GetKind()]; ignored {
			continue
		}
		if err := state.add(object.GroupVersionKind().Group, object); err != nil {
			return nil, err
		}
	}
}

func listable(config *rest.Config) ([]schema.GroupVersionResource, error) {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	lists, err := client.ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	var out []schema.GroupVersionResource
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if _, ignored := ignoredKinds[r.Kind]; ignored || strings.Contains(r.Name, "/") || !strings.Contains(r.Verbs.String(), "list") {
				continue
			}
			out = append(out, gv.WithResource(r.Name))
		}
	}
	return out, nil
}

func (s State) add(group string, object *unstructured.Unstructured) error {
	if object.GetAnnotations()["kubernetes.io/config.mirror"] != "" {
		return nil // the kubelet makes mirror pods from files on the machine
	}
	content := object.DeepCopy().Object
	uid := string(object.GetUID())
	delete(content, "status")
	for _, field := range []string{"resourceVersion", "managedFields", "generation", "uid", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(content, "metadata", field)
	}
	// The API server notes the day on which a service account's token was last used.
	if labels := object.GetLabels(); labels["kubernetes.io/legacy-token-last-used"] != "" {
		unstructured.RemoveNestedField(content, "metadata", "labels", "kubernetes.io/legacy-token-last-used")
		if len(labels) == 1 {
			unstructured.RemoveNestedField(content, "metadata", "labels")
		}
	}
	digest, err := digestOf(content)
	if err != nil {
		return err
	}
	dropClustersOwn(content)
	portable, err := digestOf(content)
	if err != nil {
		return err
	}
	key := strings.Join([]string{group, object.GetKind(), object.GetNamespace(), object.GetName()}, "/")
	s[key] = Object{UID: uid, Digest: digest, portable: portable}
	return nil
}

func digestOf(content map[string]any) (string, error) {
	raw, err := json.Marshal(content)
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), err
}

// dropClustersOwn removes what each cluster fills by itself: owners' UIDs, addresses, ports, bindings
// and revisions.
func dropClustersOwn(content map[string]any) {
	owners, _, _ := unstructured.NestedSlice(content, "metadata", "ownerReferences")
	for _, owner := range owners {
		delete(owner.(map[string]any), "uid")
	}
	if owners != nil {
		_ = unstructured.SetNestedSlice(content, owners, "metadata", "ownerReferences") // it was there
	}
	ports, _, _ := unstructured.NestedSlice(content, "spec", "ports")
	for _, port := range ports {
		delete(port.(map[string]any), "nodePort")
	}
	if ports != nil {
		_ = unstructured.SetNestedSlice(content, ports, "spec", "ports")
	}
	for _, field := range [][]string{
		{"spec", "clusterIP"}, {"spec", "clusterIPs"}, {"spec", "volumeName"}, {"metadata", "annotations", "deployment.kubernetes.io/revision"},
		{"metadata", "annotations", "deprecated.daemonset.template.generation"},
	} {
		unstructured.RemoveNestedField(content, field...)
	}
}

// Digest is one SHA-256 over all names, UIDs and contents.
func (s State) Digest() string {
	h := sha256.New()
	for _, key := range s.keys() {
		fmt.Fprintln(h, key, s[key].UID, s[key].Digest)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Diff lists what other lacks, has too much, or has otherwise; each line begins with the key.
func (s State) Diff(other State) []string {
	var out []string
	for _, key := range s.keys() {
		theirs, ok := other[key]
		switch {
		case !ok:
			out = append(out, key+": missing")
		case theirs.UID != s[key].UID:
			out = append(out, key+": another UID")
		case theirs.Digest != s[key].Digest:
			out = append(out, key+": another content")
		}
	}
	for _, key := range other.keys() {
		if _, ok := s[key]; !ok {
			out = append(out, key+": not there before")
		}
	}
	return out
}

// Elsewhere is what must be equal in another cluster.
func (s State) Elsewhere() State {
	out := State{}
	for key, object := range s {
		out[key] = Object{Digest: object.portable}
	}
	return out
}

// Without leaves out the keys that any of the given patterns is a part of.
func (s State) Without(parts ...string) State {
	out := State{}
	for key, object := range s {
		if !containsAny(key, parts) {
			out[key] = object
		}
	}
	return out
}

func containsAny(text string, parts []string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

func (s State) keys() []string {
	keys := make([]string, 0, len(s))
	for key := range s {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
