package cluster

import "path"

// Rule names resources, or single objects, and says why an operation treats them apart. Empty
// fields match everything; fields are path.Match patterns. Group "core" is the legacy group.
type Rule struct {
	Group     string
	Resource  string
	Namespace string
	Name      string
	// Fields, where the operation knows them, narrows the rule to these field paths: see fieldPath.
	Fields []string
	Reason string
}

func (r Rule) matchesResource(group, resource string) bool {
	return like(r.Group, groupDir(group)) && like(r.Resource, resource)
}

func (r Rule) matches(k Key) bool {
	return r.matchesResource(k.Group, k.Resource) && like(r.Namespace, k.Namespace) && like(r.Name, k.Name)
}

func like(pattern, text string) bool {
	if pattern == "" || pattern == text {
		return true
	}
	matched, err := path.Match(pattern, text)
	return err == nil && matched
}

// notCaptured lists resources that no capture reads: what does not outlive minutes, and second views
// of objects that another resource holds.
func notCaptured() []Rule {
	return []Rule{
		{Group: "core", Resource: "events", Reason: "events expire after an hour and describe the past"},
		{Group: "events.k8s.io", Resource: "events", Reason: "events expire after an hour and describe the past"},
		{Group: "core", Resource: "componentstatuses", Reason: "computed when it is asked for"},
		{Group: "metrics.k8s.io", Reason: "measurements, computed when they are asked for"},
		{Group: "*.metrics.k8s.io", Reason: "measurements, computed when they are asked for"},
		{Group: "extensions", Reason: "a second view of networking.k8s.io and apps"},
		{Group: "internal.apiserver.k8s.io", Reason: "the API servers' own bookkeeping, written again when they start"},
		{Group: "subresources.kubevirt.io", Reason: "a second view of kubevirt.io"},
		{Group: "packages.operators.coreos.com", Resource: "packagemanifests", Reason: "computed from catalog sources"},
		{Group: "project.openshift.io", Resource: "projects", Reason: "a second view of namespaces"},
		{Group: "image.openshift.io", Resource: "imagestreamtags", Reason: "a second view of imagestreams"},
		{Group: "image.openshift.io", Resource: "imagetags", Reason: "a second view of imagestreams"},
		{Group: "authorization.openshift.io", Resource: "roles", Reason: "a second view of rbac.authorization.k8s.io"},
		{Group: "authorization.openshift.io", Resource: "rolebindings", Reason: "a second view of rbac.authorization.k8s.io"},
		{Group: "authorization.openshift.io", Resource: "clusterroles", Reason: "a second view of rbac.authorization.k8s.io"},
		{Group: "authorization.openshift.io", Resource: "clusterrolebindings", Reason: "a second view of rbac.authorization.k8s.io"},
	}
}

// ownStorage lists groups that an aggregated API server serves from the cluster's own etcd, so that
// the cluster's revisions hold for them too. Others are listed at their newest state.
func ownStorage() []Rule {
	return []Rule{
		{Group: "*.openshift.io", Reason: "openshift-apiserver and oauth-apiserver keep their objects in the cluster's etcd"},
	}
}

// find returns the first rule that matches the whole resource.
func find(rules []Rule, group, resource string) (Rule, bool) {
	for _, rule := range rules {
		if rule.Namespace == "" && rule.Name == "" && rule.matchesResource(group, resource) {
			return rule, true
		}
	}
	return Rule{}, false
}
