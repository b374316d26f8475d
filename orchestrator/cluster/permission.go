package cluster

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/musterdr/muster/providers/fault"
)

// Permission is one verb on one resource.
type Permission struct {
	Verb      string
	Group     string
	Resource  string // with its subresource: "pods/exec"
	Namespace string // empty means all, and objects of no namespace
	Name      string // empty means all
}

// String gives it as people say it: "list secrets.core in namespace a".
func (p Permission) String() string {
	text := p.Verb + " " + p.Resource + "." + groupDir(p.Group)
	if p.Namespace != "" {
		text += inNamespace + p.Namespace
	}
	return text
}

// Require refuses work for which the client's identity lacks permissions, and names them. The error is
// fault.Denied.
func (c *Client) Require(ctx context.Context, subject string, wanted []Permission) error {
	denied, err := c.denied(ctx, wanted)
	if err != nil || len(denied) == 0 {
		return err
	}
	texts := make([]string, len(denied))
	for i, permission := range denied {
		texts[i] = permission.String()
	}
	return fault.Newf("check permissions", fault.Denied, subject, "it may not %s: grant it what `muster rbac` prints for the plan, or select less",
		strings.Join(texts, ", "))
}

// denied lists those of the permissions that the client's identity does not have.
func (c *Client) denied(ctx context.Context, wanted []Permission) ([]Permission, error) {
	allowed := make([]bool, len(wanted))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, permission := range wanted {
		group.Go(func() (err error) {
			allowed[i], err = c.may(ctx, permission)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var denied []Permission
	for i, permission := range wanted {
		if !allowed[i] {
			denied = append(denied, permission)
		}
	}
	return denied, nil
}

// may asks the API server, which knows whatever decides.
func (c *Client) may(ctx context.Context, p Permission) (bool, error) {
	resource, subresource, _ := strings.Cut(p.Resource, "/")
	attributes := map[string]any{
		"verb": p.Verb, "group": p.Group, "resource": resource, "subresource": subresource, "namespace": p.Namespace, "name": p.Name,
	}
	var answer authorizationv1.SelfSubjectAccessReview
	err := c.call(ctx, request{
		method: http.MethodPost, path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
		body: appendCanonical(nil, Object{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": attributes}}),
	}, &answer)
	return answer.Status.Allowed, err
}

// SelectedPermissions lists verbs on every kind, and in every place, that a selection means of a
// cluster. Without a client it is every kind.
func SelectedPermissions(ctx context.Context, client *Client, selection Selection, verbs ...string) ([]Permission, error) {
	filter, err := selection.filter()
	if err != nil {
		return nil, err
	}
	resources := []Resource{{Group: "*", Name: "*", Namespaced: filter.ClusterResources == NoClusterResources}}
	if client != nil {
		discovered, _, err := client.Discover(ctx)
		if err != nil {
			return nil, err
		}
		resources, _ = filter.resources(discovered)
	}
	var wanted []Permission
	for _, r := range resources {
		for _, scope := range filter.scopes(r) {
			for _, verb := range verbs {
				wanted = append(wanted, Permission{Verb: verb, Group: r.Group, Resource: r.Name, Namespace: scope.namespace})
			}
		}
	}
	return wanted, nil
}

// Rules are the fewest rules of a role that give permissions, wherever the role holds.
func Rules(permissions []Permission) []rbacv1.PolicyRule {
	verbs := map[Permission][]string{} // by what they are on
	for _, p := range permissions {
		on := Permission{Group: p.Group, Resource: p.Resource, Name: p.Name}
		verbs[on] = append(verbs[on], p.Verb)
	}
	resources := map[Permission][]string{} // by group, name and what may be done
	for on, may := range verbs {
		slices.Sort(may)
		rule := Permission{Group: on.Group, Name: on.Name, Verb: strings.Join(slices.Compact(may), " ")}
		resources[rule] = append(resources[rule], on.Resource)
	}
	var rules []rbacv1.PolicyRule
	for rule, on := range resources {
		slices.Sort(on)
		made := rbacv1.PolicyRule{APIGroups: []string{rule.Group}, Resources: on, Verbs: strings.Fields(rule.Verb)}
		if rule.Name != "" {
			made.ResourceNames = []string{rule.Name}
		}
		rules = append(rules, made)
	}
	slices.SortFunc(rules, func(a, b rbacv1.PolicyRule) int {
		return cmp.Or(slices.Compare(a.APIGroups, b.APIGroups), slices.Compare(a.Resources, b.Resources), slices.Compare(a.Verbs, b.Verbs))
	})
	return rules
}
