package cluster

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sort"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// Resource is one listable kind, in the version that the server prefers.
type Resource struct {
	Group      string // empty for the legacy group
	Version    string
	Name       string // plural, as it stands in paths: "deployments"
	Kind       string
	Namespaced bool
	Creatable  bool // objects can be created
	Watchable  bool // changes can be followed
	// Foreign says that another API server serves it from a storage of its own, to which the
	// cluster's revisions mean nothing.
	Foreign bool
}

// path returns the path of the resource's collection: of one namespace, or of all when it is empty.
func (r Resource) path(namespace string) string {
	prefix := "/apis/" + url.PathEscape(r.Group) + "/" + url.PathEscape(r.Version)
	if r.Group == "" {
		prefix = "/api/" + url.PathEscape(r.Version)
	}
	if r.Namespaced && namespace != "" {
		prefix += "/namespaces/" + url.PathEscape(namespace)
	}
	return prefix + "/" + url.PathEscape(r.Name)
}

// subject names the resource where a plan or a manifest speaks of it: "secrets.core".
func (r Resource) subject() string { return r.Name + "." + groupDir(r.Group) }

func (r Resource) key(o Object) Key {
	return Key{Group: r.Group, Resource: r.Name, Namespace: o.namespace(), Name: o.name()}
}

func (r Resource) apiVersion() string {
	return schema.GroupVersion{Group: r.Group, Version: r.Version}.String()
}

// Discover lists the resources that a capture reads, sorted by group and name, and what it passes
// over: by rule, or because the API server behind a group does not answer.
func (c *Client) Discover(ctx context.Context) ([]Resource, []repository.LeftOut, error) {
	lists, err := discovery.ServerPreferredResources(c.typed.Discovery())
	left, err := unanswered(err)
	if err != nil {
		return nil, nil, classify("discover resources", c.server, err)
	}
	foreign, err := c.aggregated(ctx)
	if err != nil {
		return nil, nil, err
	}
	var resources []Resource
	for _, list := range lists {
		found, skipped, err := listable(list, foreign)
		if err != nil {
			return nil, nil, err
		}
		resources, left = append(resources, found...), append(left, skipped...)
	}
	sort.Slice(resources, func(i, j int) bool {
		a, b := resources[i], resources[j]
		return a.Group < b.Group || a.Group == b.Group && a.Name < b.Name
	})
	sortLeft(left)
	return resources, left, nil
}

// unanswered turns a partial failure of discovery into what is left out because of it.
func unanswered(err error) ([]repository.LeftOut, error) {
	var partial *discovery.ErrGroupDiscoveryFailed
	if !errors.As(err, &partial) {
		return nil, err
	}
	var left []repository.LeftOut
	for version, cause := range partial.Groups {
		if _, skipped := find(notCaptured(), version.Group, "*"); skipped {
			continue
		}
		left = append(left, repository.LeftOut{
			Subject: version.String(), Reason: "its API server does not answer: " + cause.Error(),
		})
	}
	return left, nil
}

func listable(list *metav1.APIResourceList, foreign map[string]bool) ([]Resource, []repository.LeftOut, error) {
	version, err := schema.ParseGroupVersion(list.GroupVersion)
	if err != nil {
		return nil, nil, fault.New("discover resources", fault.Unsupported, list.GroupVersion, err)
	}
	var resources []Resource
	var left []repository.LeftOut
	for _, r := range list.APIResources {
		if !slices.Contains(r.Verbs, "list") {
			continue // subresources, and requests such as TokenReview
		}
		if rule, skipped := find(notCaptured(), version.Group, r.Name); skipped {
			left = append(left, repository.LeftOut{Subject: r.Name + "." + groupDir(version.Group), Reason: rule.Reason})
			continue
		}
		resources = append(resources, Resource{
			Group: version.Group, Version: version.Version, Name: r.Name, Kind: r.Kind, Namespaced: r.Namespaced,
			Creatable: slices.Contains(r.Verbs, "create"), Watchable: slices.Contains(r.Verbs, "watch"), Foreign: foreign[version.Group],
		})
	}
	return resources, left, nil
}

// apiService is one group version and who serves it.
type apiService struct {
	name, group string
	remote      bool // another API server than the cluster's own
	available   bool
}

func (c *Client) apiServices(ctx context.Context) ([]apiService, error) {
	var list struct {
		Items []struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Spec     struct {
				Group   string    `json:"group"`
				Service *struct{} `json:"service"`
			} `json:"spec"`
			Status struct {
				Conditions []metav1.Condition `json:"conditions"`
			} `json:"status"`
		} `json:"items"`
	}
	err := c.call(ctx, request{method: "GET", path: "/apis/apiregistration.k8s.io/v1/apiservices"}, &list)
	if err != nil {
		return nil, err
	}
	var services []apiService
	for _, item := range list.Items {
		services = append(services, apiService{
			name: item.Metadata.Name, group: item.Spec.Group, remote: item.Spec.Service != nil,
			available: meta.IsStatusConditionTrue(item.Status.Conditions, "Available"),
		})
	}
	return services, nil
}

// aggregated lists the groups whose API server keeps its objects outside the cluster's etcd. Tenants may
// not look: the runner does.
func (c *Client) aggregated(ctx context.Context) (map[string]bool, error) {
	if c.runner != nil {
		return c.runner.aggregated(ctx)
	}
	services, err := c.apiServices(ctx)
	if err != nil {
		return nil, err
	}
	foreign := map[string]bool{}
	for _, service := range services {
		if _, own := find(ownStorage(), service.group, "*"); service.remote && !own {
			foreign[service.group] = true
		}
	}
	return foreign, nil
}
