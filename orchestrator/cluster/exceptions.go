package cluster

import "slices"

// Mode says in what relation two clusters stand that are compared.
type Mode string

// The modes.
const (
	// ModeRebuild: the living cluster was restored from the captured one's etcd. UIDs must be equal.
	ModeRebuild Mode = "rebuild"
	// ModeReplay: the objects were created in another cluster, which gave them UIDs and addresses.
	ModeReplay Mode = "replay"
)

// exception is a Rule of Compare: where it holds, an object, or some fields of it, may differ.
type exception struct {
	Rule
	mode Mode // empty means both
	// when narrows the rule further; nil means always.
	when func(facts, Object) bool
}

// facts are what exceptions need to know of the two clusters.
type facts struct {
	gone  map[string]bool // names of captured nodes that the living cluster has not
	kept  map[string]bool // names of nodes that both have, at the same address
	moved bool            // a node is gone, new, or has another address
	// rebound are the names of PersistentVolumes that were made again around restored volumes.
	rebound []string
	// reclassed are claims, namespace/name, that were made again with another class.
	reclassed []string
}

// exceptions is the whole list of what Compare excuses.
func exceptions() []exception {
	return append(append(alwaysExcused(), rebuildExcused()...), replayExcused()...)
}

func alwaysExcused() []exception {
	return []exception{
		{Rule: Rule{Group: "coordination.k8s.io", Resource: "leases", Reason: "heartbeats and elections; whoever lives renews its own"}},
		{Rule: Rule{Group: "discovery.k8s.io", Resource: "endpointslices", Reason: "a controller derives it from Services and Pods"}, when: derivedEndpoints},
		{Rule: Rule{Group: "core", Resource: "endpoints", Reason: "a controller derives it from Services and Pods"}, when: derivedEndpoints},
		{Rule: Rule{Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Reason: "requests are deleted an hour after their answer"}},
		{Rule: Rule{Group: "core", Resource: "pods", Reason: "kubelet writes mirror pods from its manifests"}, when: isMirror},
		{Rule: Rule{Group: "core", Resource: "nodes", Fields: []string{"/metadata/annotations", "/metadata/labels", "/spec/taints"}, Reason: "kubelet and the node controllers keep these up to date"}},
		{Rule: Rule{Group: "core", Resource: "secrets", Namespace: "kube-system", Reason: "bootstrap tokens expire"}, when: isBootstrapToken},
		{Rule: Rule{Group: "core", Resource: "secrets", Namespace: "kube-system", Name: "kubeadm-certs", Reason: "kubeadm's uploaded certificates expire after two hours"}},
		{Rule: Rule{Group: "core", Resource: "configmaps", Namespace: "kube-public", Name: "cluster-info", Fields: []string{"/data/jws-kubeconfig-*"}, Reason: "signatures of bootstrap tokens, which expire"}},
		{Rule: Rule{Group: "core", Resource: "secrets", Fields: []string{"/metadata/labels/kubernetes.io~1legacy-token-*"}, Reason: "the API server notes the day on which a token was last used"}},
		{Rule: Rule{Group: "core", Resource: "pods", Reason: "it had ended; finished pods are cleaned up"}, when: hasEnded},
		{Rule: Rule{Group: "batch", Resource: "jobs", Reason: "CronJobs start Jobs and clean them up"}, when: ownedBy("CronJob")},
		{Rule: Rule{Group: "core", Resource: "pods", Reason: "Jobs start pods and clean them up"}, when: ownedBy("Job")},
		{Rule: Rule{Reason: "it was being deleted already"}, when: isDeleting},
		{Rule: Rule{Group: "core", Resource: "persistentvolumes", Fields: append(volumeSources(),
			"/metadata/uid", "/metadata/creationTimestamp", "/metadata/annotations/pv.kubernetes.io~1*", "/metadata/finalizers",
			"/spec/nodeAffinity", "/spec/capacity", "/spec/storageClassName", "/spec/mountOptions", "/spec/claimRef/resourceVersion",
		), Reason: "it was made again around the restored volume"}, when: isRebound},
		{Rule: Rule{Group: "core", Resource: "persistentvolumes", Fields: []string{"/spec/claimRef/uid"}, Reason: "its claim was made again with another class"}, when: claimIsReclassed},
		{Rule: Rule{Group: "core", Resource: "persistentvolumeclaims", Fields: []string{
			"/metadata/uid", "/metadata/creationTimestamp", "/metadata/annotations/pv.kubernetes.io~1*", "/metadata/finalizers", "/spec/storageClassName",
		}, Reason: "it was made again with another class"}, when: isReclassed},
	}
}

// volumeSources are the fields of a PersistentVolume that say where its content is, for the kinds that
// providers bind.
func volumeSources() []string {
	return []string{"/spec/csi", "/spec/rbd", "/spec/cephfs", "/spec/glusterfs", "/spec/awsElasticBlockStore"}
}

func isRebound(f facts, o Object) bool { return slices.Contains(f.rebound, o.name()) }

func isReclassed(f facts, o Object) bool {
	return slices.Contains(f.reclassed, o.namespace()+"/"+o.name())
}

func claimIsReclassed(f facts, o Object) bool {
	return slices.Contains(f.reclassed, o.text("spec", "claimRef", "namespace")+"/"+o.text("spec", "claimRef", "name"))
}

func rebuildExcused() []exception {
	onGone := func(f facts, o Object) bool { return f.gone[o.text("spec", "nodeName")] }
	moved := func(f facts, _ Object) bool { return f.moved }
	notKept := func(f facts, o Object) bool { return !f.kept[o.name()] }
	return []exception{
		{mode: ModeRebuild, Rule: Rule{Group: "core", Resource: "nodes", Reason: "its machine is gone, moved, or joined anew"}, when: notKept},
		{mode: ModeRebuild, Rule: Rule{Group: "storage.k8s.io", Resource: "csinodes", Reason: "its machine is gone, moved, or joined anew"}, when: notKept},
		{mode: ModeRebuild, Rule: Rule{Group: "storage.k8s.io", Resource: "csinodes", Fields: []string{"/metadata/uid", "/metadata/creationTimestamp"}, Reason: "its kubelet made it again"}},
		{mode: ModeRebuild, Rule: Rule{Group: "storage.k8s.io", Resource: "volumeattachments", Reason: "its machine is gone"}, when: onGone},
		{mode: ModeRebuild, Rule: Rule{Group: "core", Resource: "pods", Reason: "its machine is gone; its controller made another"}, when: onGone},
		{mode: ModeRebuild, Rule: Rule{Group: "core", Resource: "configmaps", Namespace: "kube-system", Name: "kubeadm-config", Fields: []string{"/data"}, Reason: "it names the machines' new addresses"}, when: moved},
		{mode: ModeRebuild, Rule: Rule{Group: "core", Resource: "configmaps", Namespace: "kube-system", Name: "kube-proxy", Fields: []string{"/data"}, Reason: "it names the API server's new address"}, when: moved},
		{mode: ModeRebuild, Rule: Rule{Group: "core", Resource: "configmaps", Namespace: "kube-public", Name: "cluster-info", Fields: []string{"/data"}, Reason: "it names the API server's new address"}, when: moved},
	}
}

// replayExcused covers what notReplayed passes over, and fields that each cluster fills by itself.
func replayExcused() []exception {
	excused := []exception{
		{mode: ModeReplay, Rule: Rule{Fields: []string{
			"/metadata/uid", "/metadata/creationTimestamp", "/metadata/deletionTimestamp", "/metadata/deletionGracePeriodSeconds",
			"/metadata/ownerReferences/*/uid",
		}, Reason: "each cluster gives its own"}},
		{mode: ModeReplay, Rule: Rule{Group: "core", Resource: "services", Fields: []string{
			"/spec/clusterIP", "/spec/clusterIPs", "/spec/ports/*/nodePort", "/spec/healthCheckNodePort", "/spec/ipFamilies",
		}, Reason: "addresses and ports of the cluster that serves it"}},
		{mode: ModeReplay, Rule: Rule{Group: "core", Resource: "persistentvolumes", Fields: []string{"/spec/claimRef/uid", "/spec/claimRef/resourceVersion"}, Reason: "binding by UID"}},
		{mode: ModeReplay, Rule: Rule{Group: "core", Resource: "persistentvolumeclaims", Fields: []string{
			"/spec/volumeName", "/metadata/annotations/pv.kubernetes.io~1*", "/metadata/annotations/volume.kubernetes.io~1*",
			"/metadata/annotations/volume.beta.kubernetes.io~1*", "/metadata/finalizers",
		}, Reason: "binding to the volume of this cluster"}},
		{mode: ModeReplay, Rule: Rule{Group: "batch", Resource: "jobs", Fields: []string{
			"/spec/selector/matchLabels/batch.kubernetes.io~1controller-uid", "/spec/selector/matchLabels/controller-uid",
			"/spec/template/metadata/labels/batch.kubernetes.io~1controller-uid", "/spec/template/metadata/labels/controller-uid",
			"/metadata/labels/batch.kubernetes.io~1controller-uid", "/metadata/labels/controller-uid",
		}, Reason: "labels that hold the Job's own UID"}},
		{mode: ModeReplay, Rule: Rule{Group: "apps", Fields: []string{
			"/metadata/annotations/deployment.kubernetes.io~1*", "/metadata/annotations/deprecated.daemonset.template.generation",
		}, Reason: "counts the revisions made in this cluster"}},
		{mode: ModeReplay, Rule: Rule{Group: "core", Resource: "secrets", Fields: []string{"/data", "/metadata/annotations/kubernetes.io~1service-account.uid"}, Reason: "a token that each cluster signs by itself"}, when: isAccountToken},
		{mode: ModeReplay, Rule: Rule{Group: "core", Resource: "services", Fields: []string{
			"/metadata/annotations/service.beta.openshift.io~1serving-cert-signed-by", "/metadata/annotations/service.alpha.openshift.io~1serving-cert-signed-by",
		}, Reason: "signed by each cluster's own service authority"}},
		{mode: ModeReplay, Rule: Rule{Group: "operators.coreos.com", Resource: "subscriptions", Fields: []string{"/spec/startingCSV"}, Reason: "pinned to the version that was installed"}},
		{mode: ModeReplay, Rule: Rule{Group: "core", Resource: "pods", Fields: []string{"/spec/nodeName"}, Reason: "placed by this cluster's scheduler"}},
		{mode: ModeReplay, Rule: Rule{Group: "core", Resource: "namespaces", Fields: []string{"/metadata/annotations/openshift.io~1sa.scc.*"}, Reason: "user ranges that each cluster assigns"}},
	}
	for _, rule := range notReplayed() {
		excused = append(excused, exception{mode: ModeReplay, Rule: rule.Rule, when: ignoringFacts(rule.when)})
	}
	return excused
}

func ignoringFacts(when func(Object) bool) func(facts, Object) bool {
	if when == nil {
		return nil
	}
	return func(_ facts, o Object) bool { return when(o) }
}

// derivedEndpoints reports endpoints that nobody wrote by hand.
func derivedEndpoints(_ facts, o Object) bool { return derived(o) }

func derived(o Object) bool {
	if o.namespace() == "default" && (o.name() == "kubernetes" || label(o, "kubernetes.io/service-name") == "kubernetes") {
		return true // the API servers write their own addresses
	}
	return label(o, "endpointslice.kubernetes.io/managed-by") != "" || label(o, "endpoints.kubernetes.io/managed-by") != "" || o.controlled()
}

func isAccountToken(_ facts, o Object) bool { return accountToken(o) }

func label(o Object, key string) string { return o.text("metadata", "labels", key) }

func isMirror(_ facts, o Object) bool { return mirror(o) }

func mirror(o Object) bool {
	_, found := o.annotation("kubernetes.io/config.mirror")
	return found
}

func isBootstrapToken(_ facts, o Object) bool { return bootstrapToken(o) }

func hasEnded(_ facts, o Object) bool { return ended(o) }

func ended(o Object) bool {
	phase := o.text("status", "phase")
	return o.kind() == "Pod" && (phase == "Succeeded" || phase == "Failed")
}

func ownedBy(kind string) func(facts, Object) bool {
	return func(_ facts, o Object) bool {
		for _, owner := range o.owners() {
			if owner.controller && owner.kind == kind {
				return true
			}
		}
		return false
	}
}

func isDeleting(_ facts, o Object) bool { return deleting(o) }

func deleting(o Object) bool { return o.text("metadata", "deletionTimestamp") != "" }
