package cluster

import "slices"

// wave is a set of objects that can be created side by side. What a later wave needs stands in an
// earlier one. A kind belongs to the first wave with a rule for it.
type wave struct {
	name  string
	rules []Rule
}

// otherKinds is the wave of everything that no rule names: custom resources, above all.
const otherKinds = "other kinds"

// limitsWave is the first that waits for all others.
const limitsWave = "quotas and limits"

// waves is the dependency order of a replay. Owners are no part of it: an object waits for its owner
// wherever that stands.
func waves() []wave {
	return []wave{
		{"namespaces", []Rule{{Group: "core", Resource: "namespaces"}}},
		{"custom resource definitions", []Rule{{Group: "apiextensions.k8s.io"}}},
		{"classes and cluster roles", []Rule{
			{Group: "storage.k8s.io"}, {Group: "scheduling.k8s.io"}, {Group: "node.k8s.io"}, {Group: "networking.k8s.io", Resource: "ingressclasses"},
			{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, {Group: "security.openshift.io"}, {Group: "*", Resource: "*classes"},
		}},
		{"accounts and configuration", []Rule{
			{Group: "core", Resource: "serviceaccounts"}, {Group: "core", Resource: "secrets"}, {Group: "core", Resource: "configmaps"},
			{Group: "rbac.authorization.k8s.io"}, {Group: "authorization.openshift.io"},
		}},
		{"volumes", []Rule{{Group: "core", Resource: "persistentvolumes"}}},
		{"claims", []Rule{{Group: "core", Resource: "persistentvolumeclaims"}}},
		{"network", []Rule{
			{Group: "core", Resource: "services"}, {Group: "core", Resource: "endpoints"}, {Group: "discovery.k8s.io"},
			{Group: "networking.k8s.io"}, {Group: "route.openshift.io"},
		}},
		{otherKinds, nil},
		{"workloads", []Rule{
			{Group: "core", Resource: "pods"}, {Group: "core", Resource: "replicationcontrollers"}, {Group: "apps"}, {Group: "batch"},
			{Group: "apps.openshift.io"}, {Group: "autoscaling"}, {Group: "policy"},
		}},
		// Quotas would count what is created here twice while it is created; limits would change pods that
		// are older than they.
		{limitsWave, []Rule{{Group: "core", Resource: "resourcequotas"}, {Group: "core", Resource: "limitranges"}, {Group: "quota.openshift.io"}}},
		// What is asked about every request comes when whoever answers is there.
		{"webhooks and API services", []Rule{{Group: "admissionregistration.k8s.io"}, {Group: "apiregistration.k8s.io"}}},
	}
}

// lateWave is the first of those that come when nothing else is under way.
func lateWave(all []wave) int {
	return slices.IndexFunc(all, func(w wave) bool { return w.name == limitsWave })
}

// waveOf returns the index of a kind's wave.
func waveOf(all []wave, group, resource string) int {
	rest := 0
	for i, w := range all {
		if w.name == otherKinds {
			rest = i
		}
		if _, found := find(w.rules, group, resource); found {
			return i
		}
	}
	return rest
}
