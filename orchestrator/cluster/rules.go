package cluster

import (
	"path"
	"strings"
)

// Rule names resources, or single objects, and says why an operation treats them apart. Empty
// fields match everything; fields are path.Match patterns. Group "core" is the legacy group.
type Rule struct {
	Group     string
	Resource  string
	Namespace string
	Name      string
	// Fields narrows the rule to what these JSON pointers name; none means the whole object. A
	// segment "*" stands for every entry, and one that ends with "*" for every key that begins so.
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
	if !strings.ContainsAny(pattern, `*?[\`) { // most are names, and every object meets every rule
		return false
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

// conditional is a Rule that holds for some objects of what it names.
type conditional struct {
	Rule
	when func(Object) bool // nil means always
}

// notReplayed lists objects that a recovery point holds and that are not created in another cluster:
// what belongs to the captured cluster's own machines and control plane, and what controllers make
// again from objects that are replayed.
func notReplayed() []conditional {
	return []conditional{
		{Rule: Rule{Group: "core", Resource: "nodes", Reason: "a cluster's own machines"}},
		{Rule: Rule{Group: "storage.k8s.io", Resource: "csinodes", Reason: "a cluster's own machines"}},
		{Rule: Rule{Group: "storage.k8s.io", Resource: "volumeattachments", Reason: "volumes attached to the captured cluster's machines"}},
		{Rule: Rule{Group: "storage.k8s.io", Resource: "csistoragecapacities", Reason: "measured by each cluster's storage drivers"}},
		{Rule: Rule{Group: "coordination.k8s.io", Reason: "heartbeats and elections of the captured cluster's processes"}},
		{Rule: Rule{Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Reason: "requests to the captured cluster's authority"}},
		{Rule: Rule{Group: "discovery.k8s.io", Resource: "endpointslices", Reason: "a controller derives it from Services and Pods"}, when: derived},
		{Rule: Rule{Group: "core", Resource: "endpoints", Reason: "a controller derives it from Services and Pods"}, when: derived},
		{Rule: Rule{Group: "networking.k8s.io", Resource: "ipaddresses", Reason: "allocated to each cluster's Services"}},
		{Rule: Rule{Group: "networking.k8s.io", Resource: "servicecidrs", Name: "kubernetes", Reason: "each cluster's own address range"}},
		{Rule: Rule{Group: "apiregistration.k8s.io", Resource: "apiservices", Reason: "the API server registers its own groups"}, when: localAPIService},
		{Rule: Rule{Group: "flowcontrol.apiserver.k8s.io", Reason: "the API server keeps its own"}, when: autoUpdated},
		{Rule: Rule{Group: "rbac.authorization.k8s.io", Reason: "the API server makes its own roles and bindings"}, when: bootstrapRBAC},
		{Rule: Rule{Group: "scheduling.k8s.io", Resource: "priorityclasses", Name: "system-*", Reason: "the API server makes its own"}},
		{Rule: Rule{Group: "core", Resource: "namespaces", Name: "kube-*", Reason: "the system's own namespaces"}},
		{Rule: Rule{Group: "core", Resource: "namespaces", Name: "default", Reason: "the system's own namespaces"}},
		{Rule: Rule{Namespace: "kube-*", Reason: "a cluster's own control plane"}},
		{Rule: Rule{Group: "core", Resource: "services", Namespace: "default", Name: "kubernetes", Reason: "the API server's own address"}},
		{Rule: Rule{Group: "core", Resource: "configmaps", Name: "kube-root-ca.crt", Reason: "each cluster's own authority"}},
		{Rule: Rule{Group: "core", Resource: "configmaps", Name: "openshift-service-ca.crt", Reason: "each cluster's own authority"}},
		{Rule: Rule{Group: "core", Resource: "serviceaccounts", Name: "default", Reason: "a controller makes one in each namespace"}, when: plainAccount},
		{Rule: Rule{Group: "core", Resource: "secrets", Reason: "a token that a controller made, signed by the captured cluster's key"}, when: issuedToken},
		{Rule: Rule{Group: "core", Resource: "secrets", Reason: "a pull secret that each cluster's own registry issues"}, when: issuedDockercfg},
		{Rule: Rule{Group: "core", Resource: "secrets", Reason: "a certificate that each cluster's service authority issues"}, when: servingCertificate},
		{Rule: Rule{Group: "core", Resource: "secrets", Reason: "bootstrap tokens admit machines to the captured cluster"}, when: bootstrapToken},
		{Rule: Rule{Group: "core", Resource: "pods", Reason: "kubelet writes mirror pods from its manifests"}, when: mirror},
		{Rule: Rule{Group: "core", Resource: "pods", Reason: "its controller makes it again"}, when: Object.controlled},
		{Rule: Rule{Group: "core", Resource: "pods", Reason: "it had ended"}, when: ended},
		{Rule: Rule{Group: "batch", Resource: "jobs", Reason: "it had ended: created again it would run again"}, when: jobEnded},
		{Rule: Rule{Group: "batch", Resource: "jobs", Reason: "its CronJob starts the next one when it is due"}, when: Object.controlled},
		{Rule: Rule{Group: "apps", Resource: "controllerrevisions", Reason: "its controller makes it again"}, when: Object.controlled},
		{Rule: Rule{Group: "apps", Resource: "replicasets", Reason: "its Deployment makes it again"}, when: Object.controlled},
		{Rule: Rule{Group: "core", Resource: "persistentvolumes", Reason: "a dynamically provisioned volume: its claim makes one anew"}, when: provisioned},
		{Rule: Rule{Group: "core", Resource: "replicationcontrollers", Reason: "its DeploymentConfig makes it again"}, when: Object.controlled},
		{Rule: Rule{Group: "operators.coreos.com", Resource: "installplans", Reason: "a plan that was made with the captured cluster's catalogue: its Subscription makes another"}},
		{Rule: Rule{Group: "operators.coreos.com", Resource: "operators", Reason: "OLM computes it from Subscriptions"}},
		{Rule: Rule{Group: "operators.coreos.com", Resource: "clusterserviceversions", Reason: "a copy that OLM makes in each namespace"}, when: copiedByOLM},
		{Rule: Rule{Group: "cert-manager.io", Resource: "certificaterequests", Reason: "created again it would order another certificate"}},
		{Rule: Rule{Group: "acme.cert-manager.io", Reason: "created again it would order another certificate"}},
		{Rule: Rule{Group: "build.openshift.io", Resource: "builds", Reason: "a build belongs to the cluster that ran it"}},
		{Rule: Rule{Reason: "it was being deleted already"}, when: deleting},
	}
}

func localAPIService(o Object) bool { return at(o, "spec", "service") == nil }

func autoUpdated(o Object) bool {
	value, found := o.annotation("apf.kubernetes.io/autoupdate-spec")
	return found && value == "true" || o.name() == "exempt" || o.name() == "catch-all"
}

func bootstrapRBAC(o Object) bool {
	return label(o, "kubernetes.io/bootstrapping") == "rbac-defaults" || strings.HasPrefix(o.name(), "kubeadm:")
}

// plainAccount reports a default service account that nobody added anything to.
func plainAccount(o Object) bool {
	return at(o, "metadata", "annotations") == nil && at(o, "metadata", "labels") == nil && o["imagePullSecrets"] == nil
}

func accountToken(o Object) bool { return o.text("type") == "kubernetes.io/service-account-token" }

// issuedToken reports the token of an account that a controller made; one that a person made under a
// name of their own is filled by the new cluster.
func issuedToken(o Object) bool {
	account, _ := o.annotation("kubernetes.io/service-account.name")
	return accountToken(o) && issuedFor(o.name()) == account
}

func issuedDockercfg(o Object) bool {
	_, owned := o.annotation("openshift.io/internal-registry-auth-token.service-account")
	_, legacy := o.annotation("openshift.io/token-secret.name")
	return o.text("type") == "kubernetes.io/dockercfg" && (owned || legacy)
}

func servingCertificate(o Object) bool {
	_, beta := o.annotation("service.beta.openshift.io/originating-service-uid")
	_, alpha := o.annotation("service.alpha.openshift.io/originating-service-uid")
	return beta || alpha
}

func copiedByOLM(o Object) bool { return label(o, "olm.copiedFrom") != "" }

func bootstrapToken(o Object) bool { return o.text("type") == "bootstrap.kubernetes.io/token" }

func provisioned(o Object) bool {
	_, found := o.annotation("pv.kubernetes.io/provisioned-by")
	return found
}

func jobEnded(o Object) bool {
	conditions, _ := at(o, "status", "conditions").([]any)
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		kind := condition["type"]
		if (kind == "Complete" || kind == "Failed") && condition["status"] == "True" {
			return true
		}
	}
	return false
}
