package cluster

// namingField is a field that holds the name of an object of one resource.
type namingField struct {
	of              string // resource of the objects that have it; empty means any
	parent          string // pattern of the field before it; empty means any
	group, resource string
	clusterScoped   bool
	// admission says that the API server refuses a pod while the object is not there.
	admission bool
	why       string
}

func (f namingField) fits(key Key, path []string) bool {
	if f.of != "" && f.of != key.Resource {
		return false
	}
	return f.parent == "" || len(path) > 1 && like(f.parent, path[len(path)-2])
}

// namingFields are the fields that name objects, by the last segment of their path. Where a kind's
// own API is the source: https://kubernetes.io/docs/reference/kubernetes-api and
// https://docs.openshift.com/container-platform/4.20/rest_api.
var namingFields = map[string][]namingField{
	"name": {
		{parent: "secret", resource: "secrets", why: "projected volumes and sources"},
		{parent: "*Secret", resource: "secrets", why: "push, pull and source secrets"},
		{parent: "*[sS]ecretRef", resource: "secrets", why: "secret reference"},
		{parent: "secretKeyRef", resource: "secrets", why: "env"},
		{parent: "secretReference", resource: "secrets", why: "secret reference"},
		{parent: "imagePullSecrets", resource: "secrets", why: "image pull secrets"},
		{of: "serviceaccounts", parent: "secrets", resource: "secrets", why: "tokens of the account"},
		{parent: "externalCertificate", resource: "secrets", why: "certificate"},
		{parent: "*[cC]onfigMap", resource: "configmaps", why: "volumes and sources"},
		{parent: "*[cC]onfigMapRef", resource: "configmaps", why: "config map reference"},
		{parent: "configMapKeyRef", resource: "configmaps", why: "env"},
		{parent: "service", resource: "services", why: "the service behind it"},
		{parent: "claimRef", resource: "persistentvolumeclaims", why: "the claim of the volume"},
		{parent: "volumeSnapshotRef", group: "snapshot.storage.k8s.io", resource: "volumesnapshots", why: "the snapshot of the content"},
		{parent: "priorityLevelConfiguration", group: "flowcontrol.apiserver.k8s.io", resource: "prioritylevelconfigurations", clusterScoped: true, why: "its level"},
	},
	"secretName":         {{resource: "secrets", why: "volumes and certificates"}},
	"serviceAccountName": {{resource: "serviceaccounts", admission: true, why: "the account it runs as"}},
	"serviceAccount":     {{resource: "serviceaccounts", admission: true, why: "the account it runs as"}},
	"serviceName":        {{resource: "services", why: "its service"}},
	"claimName":          {{resource: "persistentvolumeclaims", why: "volumes"}},
	"volumeName": {
		{of: "persistentvolumeclaims", resource: "persistentvolumes", clusterScoped: true, why: "its volume"},
	},
	"persistentVolumeClaimName": {{resource: "persistentvolumeclaims", why: "its source"}},
	"persistentVolumeName":      {{resource: "persistentvolumes", clusterScoped: true, why: "its source"}},
	"resourceClaimName":         {{group: "resource.k8s.io", resource: "resourceclaims", why: "devices"}},
	"resourceClaimTemplateName": {{group: "resource.k8s.io", resource: "resourceclaimtemplates", why: "devices"}},
	"deviceClassName":           {{group: "resource.k8s.io", resource: "deviceclasses", clusterScoped: true, why: "devices"}},
	"storageClassName":          {{group: "storage.k8s.io", resource: "storageclasses", clusterScoped: true, why: "its class"}},
	"volumeAttributesClassName": {{group: "storage.k8s.io", resource: "volumeattributesclasses", clusterScoped: true, why: "its class"}},
	"priorityClassName":         {{group: "scheduling.k8s.io", resource: "priorityclasses", clusterScoped: true, admission: true, why: "its class"}},
	"runtimeClassName":          {{group: "node.k8s.io", resource: "runtimeclasses", clusterScoped: true, admission: true, why: "its class"}},
	"ingressClassName":          {{group: "networking.k8s.io", resource: "ingressclasses", clusterScoped: true, why: "its class"}},
	"gatewayClassName":          {{group: "gateway.networking.k8s.io", resource: "gatewayclasses", clusterScoped: true, why: "its class"}},
	"volumeSnapshotClassName":   {{group: "snapshot.storage.k8s.io", resource: "volumesnapshotclasses", clusterScoped: true, why: "its class"}},
	"volumeSnapshotContentName": {{group: "snapshot.storage.k8s.io", resource: "volumesnapshotcontents", clusterScoped: true, why: "its content"}},
	"driver": {
		{parent: "csi", group: "storage.k8s.io", resource: "csidrivers", clusterScoped: true, why: "its driver"},
		{of: "volumesnapshotclasses", group: "storage.k8s.io", resource: "csidrivers", clusterScoped: true, why: "its driver"},
		{of: "volumesnapshotcontents", group: "storage.k8s.io", resource: "csidrivers", clusterScoped: true, why: "its driver"},
	},
	"provisioner": {{of: "storageclasses", group: "storage.k8s.io", resource: "csidrivers", clusterScoped: true, why: "its driver"}},
	"policyName": {
		{of: "validatingadmissionpolicybindings", group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicies", clusterScoped: true, why: "its policy"},
		{of: "mutatingadmissionpolicybindings", group: "admissionregistration.k8s.io", resource: "mutatingadmissionpolicies", clusterScoped: true, why: "its policy"},
	},
}
