package corpus

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// place is a cluster, source or target.
type place struct {
	discovery discovery.DiscoveryInterface
	dynamic   dynamic.Interface
	kinds     sync.Map // schema.GroupVersionKind to kind
}

// kind is how a cluster serves objects of one kind.
type kind struct {
	schema.GroupVersionResource
	namespaced, status bool
}

func at(config *rest.Config) (*place, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst, config.WarningHandler = -1, 0, rest.NoWarnings{}
	asked, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	return &place{discovery: asked, dynamic: client}, err
}

// kindOf asks once for each kind that is served. One that is not is NotFound.
func (p *place) kindOf(apiVersion, name string) (kind, error) {
	gvk := schema.FromAPIVersionAndKind(apiVersion, name)
	if known, found := p.kinds.Load(gvk); found {
		return known.(kind), nil
	}
	list, err := p.discovery.ServerResourcesForGroupVersion(apiVersion)
	if err != nil {
		return kind{}, err
	}
	k, found := kind{}, false
	for _, r := range list.APIResources {
		if r.Kind == name && !strings.Contains(r.Name, "/") {
			k.GroupVersionResource, k.namespaced, found = gvk.GroupVersion().WithResource(r.Name), r.Namespaced, true
		}
	}
	if !found {
		return kind{}, apierrors.NewNotFound(schema.GroupResource{Group: gvk.Group, Resource: name}, "")
	}
	for _, r := range list.APIResources {
		k.status = k.status || r.Name == k.Resource+"/status"
	}
	p.kinds.Store(gvk, k)
	return k, nil
}

// located is where an object of a case stands: with the namespace that it does not name.
func (p *place) located(c Case, ref Ref) (kind, Ref, error) {
	k, err := p.kindOf(ref.APIVersion, ref.Kind)
	if err == nil && k.namespaced && ref.Namespace == "" {
		ref.Namespace = c.Name
	}
	return k, ref, err
}

func (p *place) resource(k kind, namespace string) dynamic.ResourceInterface {
	if !k.namespaced {
		return p.dynamic.Resource(k.GroupVersionResource)
	}
	return p.dynamic.Resource(k.GroupVersionResource).Namespace(namespace)
}

func (p *place) get(ctx context.Context, c Case, ref Ref) (*unstructured.Unstructured, error) {
	k, ref, err := p.located(c, ref)
	if err != nil {
		return nil, err
	}
	return p.resource(k, ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
}

var placeholder = regexp.MustCompile(`\$\((uid|fill):([^)]*)\)`)

// resolve replaces the placeholders of an object by what they stand for in this cluster.
func (p *place) resolve(ctx context.Context, c Case, o Object) (Object, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var failed error
	text := placeholder.ReplaceAllStringFunc(string(raw), func(match string) string {
		parts := placeholder.FindStringSubmatch(match)
		if parts[1] == "fill" {
			return fill(parts[2])
		}
		uid, err := p.uid(ctx, c, parts[2])
		if err != nil {
			failed = fmt.Errorf("%s: %w", match, err)
		}
		return uid
	})
	if failed != nil {
		return nil, failed
	}
	var resolved Object
	err = json.Unmarshal([]byte(text), &resolved)
	return resolved, err
}

func fill(count string) string {
	n, err := strconv.Atoi(count)
	if err != nil {
		panic("corpus: $(fill:" + count + ")")
	}
	const text = "0123456789abcdef"
	return strings.Repeat(text, n/len(text)+1)[:n]
}

// uid finds Kind/name or Kind/namespace/name.
func (p *place) uid(ctx context.Context, c Case, text string) (string, error) {
	parts := strings.Split(text, "/")
	ref := Ref{APIVersion: c.apiVersionOf(parts[0]), Kind: parts[0], Name: parts[len(parts)-1]}
	if len(parts) == 3 {
		ref.Namespace = parts[1]
	}
	living, err := p.get(ctx, c, ref)
	if err != nil {
		return "", err
	}
	return string(living.GetUID()), nil
}

func (c Case) apiVersionOf(kind string) string {
	for _, objects := range [][]Object{c.Source, c.Target, c.Want} {
		for _, o := range objects {
			if ref := o.ref(); ref.Kind == kind {
				return ref.APIVersion
			}
		}
	}
	return "v1"
}
