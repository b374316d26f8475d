package cluster

import (
	"slices"
	"testing"
)

// kindsForTests resolves the kinds that the objects below name.
func kindsForTests() resolver {
	return resolverOf([]Resource{
		{Name: "services", Kind: "Service", Namespaced: true}, {Name: "secrets", Kind: "Secret", Namespaced: true},
		{Name: "serviceaccounts", Kind: "ServiceAccount", Namespaced: true}, {Name: "nodes", Kind: "Node"},
		{Name: "persistentvolumeclaims", Kind: "PersistentVolumeClaim", Namespaced: true},
		{Group: "apps", Name: "deployments", Kind: "Deployment", Namespaced: true},
		{Group: "apps", Name: "replicasets", Kind: "ReplicaSet", Namespaced: true},
		{Group: "rbac.authorization.k8s.io", Name: "clusterroles", Kind: "ClusterRole"},
		{Group: "rbac.authorization.k8s.io", Name: "roles", Kind: "Role", Namespaced: true},
		{Group: "snapshot.storage.k8s.io", Name: "volumesnapshots", Kind: "VolumeSnapshot", Namespaced: true},
		{Group: "cert-manager.io", Name: "issuers", Kind: "Issuer", Namespaced: true},
		{Group: "cert-manager.io", Name: "clusterissuers", Kind: "ClusterIssuer"},
		{Group: "gateway.networking.k8s.io", Name: "gateways", Kind: "Gateway", Namespaced: true},
		{Group: "example.org", Name: "stores", Kind: "Store"},
	})
}

// podSpec names one object in every way that a pod can.
const podSpec = `{"serviceAccountName":"runner","priorityClassName":"high","runtimeClassName":"kata","imagePullSecrets":[{"name":"pull"}],
"resourceClaims":[{"name":"gpu","resourceClaimName":"gpus"},{"name":"b","resourceClaimTemplateName":"made"}],
"initContainers":[{"name":"i","env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"env-map","key":"a"}}}]}],
"containers":[{"name":"c","env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"env-secret","key":"a"}}}],
 "envFrom":[{"secretRef":{"name":"from-secret"}},{"configMapRef":{"name":"from-map"}}]}],
"volumes":[{"name":"s","secret":{"secretName":"volume-secret"}},{"name":"m","configMap":{"name":"volume-map"}},
 {"name":"p","persistentVolumeClaim":{"claimName":"data"}},
 {"name":"j","projected":{"sources":[{"secret":{"name":"projected-secret"}},{"configMap":{"name":"projected-map"}}]}},
 {"name":"x","csi":{"driver":"csi.example.org","nodePublishSecretRef":{"name":"csi-secret"}}},
 {"name":"e","ephemeral":{"volumeClaimTemplate":{"spec":{"storageClassName":"fast"}}}}]}`

// podNames is what podSpec names in the namespace a.
func podNames() []string {
	return []string{
		"core/configmaps/a/env-map", "core/configmaps/a/from-map", "core/configmaps/a/projected-map", "core/configmaps/a/volume-map",
		"core/persistentvolumeclaims/a/data", "core/secrets/a/csi-secret", "core/secrets/a/env-secret", "core/secrets/a/from-secret",
		"core/secrets/a/projected-secret", "core/secrets/a/pull", "core/secrets/a/volume-secret", "core/serviceaccounts/a/runner",
		"node.k8s.io/runtimeclasses//kata", "resource.k8s.io/resourceclaims/a/gpus", "resource.k8s.io/resourceclaimtemplates/a/made",
		"scheduling.k8s.io/priorityclasses//high", "storage.k8s.io/csidrivers//csi.example.org", "storage.k8s.io/storageclasses//fast",
	}
}

func TestReferences(t *testing.T) {
	space := "core/namespaces//a!"
	for _, c := range []struct {
		name string
		key  Key
		json string
		want []string // keys, with "!" after those without which the API server takes no object
	}{
		{"a namespace names nothing", Key{Resource: "namespaces", Name: "a"}, `{"metadata":{"name":"a"},"spec":{"finalizers":["kubernetes"]}}`, nil},
		{"owners, and a definition", Key{Group: "example.org", Resource: "widgets", Namespace: "a", Name: "w"},
			`{"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs"},{"apiVersion":"example.org/v1","kind":"Store","name":"st"},
			{"apiVersion":"unknown.org/v1","kind":"Thing","name":"t"}]}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//widgets.example.org!", "apps/replicasets/a/rs!", "example.org/stores//st!"}},
		{"data is a user's own", Key{Resource: "configmaps", Namespace: "a", Name: "m"},
			`{"data":{"secretName":"x","serviceAccountName":"y"},"metadata":{"annotations":{"secretName":"z"}}}`, []string{space}},
		{"service account", Key{Resource: "serviceaccounts", Namespace: "a", Name: "s"},
			`{"secrets":[{"name":"token"}],"imagePullSecrets":[{"name":"pull"}]}`, []string{space, "core/secrets/a/token", "core/secrets/a/pull"}},
		{"account token", Key{Resource: "secrets", Namespace: "a", Name: "s"},
			`{"metadata":{"annotations":{"kubernetes.io/service-account.name":"sa"}}}`, []string{space, "core/serviceaccounts/a/sa!"}},
		{"claim", Key{Resource: "persistentvolumeclaims", Namespace: "a", Name: "c"},
			`{"spec":{"volumeName":"pv","storageClassName":"fast","dataSource":{"apiGroup":"snapshot.storage.k8s.io","kind":"VolumeSnapshot","name":"snap"},
			"dataSourceRef":{"kind":"PersistentVolumeClaim","name":"other","namespace":"b"}}}`,
			[]string{space, "core/persistentvolumes//pv", "storage.k8s.io/storageclasses//fast", "snapshot.storage.k8s.io/volumesnapshots/a/snap", "core/persistentvolumeclaims/b/other"}},
		{"volume", Key{Resource: "persistentvolumes", Name: "pv"},
			`{"spec":{"claimRef":{"kind":"PersistentVolumeClaim","namespace":"a","name":"c"},"storageClassName":"fast",
			"csi":{"driver":"csi.example.org","nodeStageSecretRef":{"name":"s","namespace":"sys"}}}}`,
			[]string{"core/persistentvolumeclaims/a/c", "storage.k8s.io/storageclasses//fast", "storage.k8s.io/csidrivers//csi.example.org", "core/secrets/sys/s"}},
		{"storage class", Key{Group: "storage.k8s.io", Resource: "storageclasses", Name: "fast"},
			`{"provisioner":"csi.example.org","parameters":{"csi.storage.k8s.io/provisioner-secret-name":"s","csi.storage.k8s.io/provisioner-secret-namespace":"sys",
			"csi.storage.k8s.io/node-stage-secret-name":"${pvc.name}","csi.storage.k8s.io/node-stage-secret-namespace":"sys"}}`,
			[]string{"storage.k8s.io/csidrivers//csi.example.org", "core/secrets/sys/s"}},
		{"role binding", Key{Group: "rbac.authorization.k8s.io", Resource: "rolebindings", Namespace: "a", Name: "b"},
			`{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},"subjects":[{"kind":"ServiceAccount","name":"sa","namespace":"b"},
			{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"system:serviceaccount:c:other"},{"kind":"Group","name":"system:serviceaccounts:d"},
			{"kind":"User","name":"jane"}]}`,
			[]string{space, "rbac.authorization.k8s.io/roles/a/r", "core/serviceaccounts/b/sa", "core/serviceaccounts/c/other", "core/namespaces//d"}},
		{"cluster role binding", Key{Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings", Name: "b"},
			`{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"r"},"subjects":[{"kind":"ServiceAccount","name":"sa","namespace":"b"}]}`,
			[]string{"rbac.authorization.k8s.io/clusterroles//r", "core/serviceaccounts/b/sa"}},
		{"security context constraints", Key{Group: "security.openshift.io", Resource: "securitycontextconstraints", Name: "s"},
			`{"users":["system:serviceaccount:a:builder","system:admin"],"groups":["system:serviceaccounts:b"]}`,
			[]string{"apiextensions.k8s.io/customresourcedefinitions//securitycontextconstraints.security.openshift.io!", "core/serviceaccounts/a/builder", "core/namespaces//b"}},
		{"ingress", Key{Group: "networking.k8s.io", Resource: "ingresses", Namespace: "a", Name: "i"},
			`{"metadata":{"annotations":{"cert-manager.io/cluster-issuer":"ci","kubernetes.io/ingress.class":"old"}},"spec":{"ingressClassName":"nginx","tls":[{"secretName":"tls"}],
			"rules":[{"http":{"paths":[{"backend":{"service":{"name":"web","port":{"name":"http"}}}},{"backend":{"resource":{"apiGroup":"example.org","kind":"Store","name":"st"}}}]}}]}}`,
			[]string{space, "cert-manager.io/clusterissuers//ci", "networking.k8s.io/ingressclasses//old", "networking.k8s.io/ingressclasses//nginx",
				"core/secrets/a/tls", "core/services/a/web", "example.org/stores//st"}},
		{"gateway route", Key{Group: "gateway.networking.k8s.io", Resource: "httproutes", Namespace: "a", Name: "r"},
			`{"spec":{"parentRefs":[{"name":"gw","namespace":"net"}],"rules":[{"backendRefs":[{"name":"web","port":80}]}]}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//httproutes.gateway.networking.k8s.io!", "gateway.networking.k8s.io/gateways/net/gw", "core/services/a/web"}},
		{"webhooks", Key{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations", Name: "w"},
			`{"webhooks":[{"name":"w.example.org","clientConfig":{"service":{"namespace":"a","name":"hook"}}}]}`, []string{"core/services/a/hook"}},
		{"API service", Key{Group: "apiregistration.k8s.io", Resource: "apiservices", Name: "v1.example.org"},
			`{"spec":{"group":"example.org","service":{"namespace":"a","name":"api"}}}`, []string{"core/services/a/api"}},
		{"conversion webhook", Key{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Name: "widgets.example.org"},
			`{"spec":{"conversion":{"webhook":{"clientConfig":{"service":{"namespace":"a","name":"convert"}}}},"names":{"kind":"Widget"},
			"versions":[{"name":"v1","schema":{"openAPIV3Schema":{"properties":{"secretName":{"type":"string"}}}}}]}}`, []string{"core/services/a/convert"}},
		{"autoscaler", Key{Group: "autoscaling", Resource: "horizontalpodautoscalers", Namespace: "a", Name: "h"},
			`{"spec":{"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"web"}}}`, []string{space, "apps/deployments/a/web"}},
		{"stateful set", Key{Group: "apps", Resource: "statefulsets", Namespace: "a", Name: "db"},
			`{"spec":{"serviceName":"db","volumeClaimTemplates":[{"metadata":{"name":"data"},"spec":{"storageClassName":"fast"}}]}}`,
			[]string{space, "core/services/a/db", "storage.k8s.io/storageclasses//fast"}},
		{"route", Key{Group: "route.openshift.io", Resource: "routes", Namespace: "a", Name: "r"},
			`{"spec":{"to":{"kind":"Service","name":"web","weight":100},"alternateBackends":[{"kind":"Service","name":"next"}]}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//routes.route.openshift.io!", "core/services/a/web", "core/services/a/next"}},
		{"build", Key{Group: "build.openshift.io", Resource: "buildconfigs", Namespace: "a", Name: "b"},
			`{"spec":{"serviceAccount":"builder","output":{"pushSecret":{"name":"push"},"to":{"kind":"ImageStreamTag","name":"app:latest"}},
			"strategy":{"sourceStrategy":{"pullSecret":{"name":"pull"},"from":{"kind":"ImageStreamTag","namespace":"openshift","name":"nodejs:20"}}},
			"source":{"sourceSecret":{"name":"git"},"secrets":[{"secret":{"name":"extra"}}],"configMaps":[{"configMap":{"name":"conf"}}]},
			"triggers":[{"github":{"secretReference":{"name":"hook"}}}]}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//buildconfigs.build.openshift.io!", "core/serviceaccounts/a/builder", "core/secrets/a/push",
				"image.openshift.io/imagestreams/a/app", "core/secrets/a/pull", "image.openshift.io/imagestreams/openshift/nodejs", "core/secrets/a/git",
				"core/secrets/a/extra", "core/configmaps/a/conf", "core/secrets/a/hook"}},
		{"deployment config", Key{Group: "apps.openshift.io", Resource: "deploymentconfigs", Namespace: "a", Name: "d"},
			`{"spec":{"template":{"spec":{"serviceAccountName":"runner","volumes":[{"name":"v","configMap":{"name":"conf"}}]}},
			"triggers":[{"imageChangeParams":{"from":{"kind":"ImageStreamTag","name":"app:latest"}}}]}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//deploymentconfigs.apps.openshift.io!", "core/serviceaccounts/a/runner",
				"core/configmaps/a/conf", "image.openshift.io/imagestreams/a/app"}},
		{"image stream", Key{Group: "image.openshift.io", Resource: "imagestreams", Namespace: "a", Name: "s"},
			`{"spec":{"tags":[{"name":"latest","from":{"kind":"ImageStreamTag","name":"1.0"}},{"name":"x","from":{"kind":"ImageStreamTag","name":"other:1"}}]}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//imagestreams.image.openshift.io!", "image.openshift.io/imagestreams/a/other"}},
		{"certificate", Key{Group: "cert-manager.io", Resource: "certificates", Namespace: "a", Name: "c"},
			`{"spec":{"secretName":"tls","issuerRef":{"name":"ca"}}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//certificates.cert-manager.io!", "core/secrets/a/tls", "cert-manager.io/issuers/a/ca"}},
		{"cluster issuer", Key{Group: "cert-manager.io", Resource: "certificates", Namespace: "a", Name: "c"}, `{"spec":{"issuerRef":{"name":"ca","kind":"ClusterIssuer"}}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//certificates.cert-manager.io!", "cert-manager.io/clusterissuers//ca"}},
		{"snapshot", Key{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots", Namespace: "a", Name: "s"},
			`{"spec":{"source":{"persistentVolumeClaimName":"c"},"volumeSnapshotClassName":"vc"},"status":{"boundVolumeSnapshotContentName":"content"}}`,
			[]string{space, "apiextensions.k8s.io/customresourcedefinitions//volumesnapshots.snapshot.storage.k8s.io!", "core/persistentvolumeclaims/a/c",
				"snapshot.storage.k8s.io/volumesnapshotclasses//vc", "snapshot.storage.k8s.io/volumesnapshotcontents//content"}},
		{"snapshot content", Key{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshotcontents", Name: "s"},
			`{"spec":{"driver":"csi.example.org","volumeSnapshotRef":{"name":"snap","namespace":"a"},"volumeSnapshotClassName":"vc"}}`,
			[]string{"apiextensions.k8s.io/customresourcedefinitions//volumesnapshotcontents.snapshot.storage.k8s.io!", "storage.k8s.io/csidrivers//csi.example.org",
				"snapshot.storage.k8s.io/volumesnapshots/a/snap", "snapshot.storage.k8s.io/volumesnapshotclasses//vc"}},
		{"endpoints", Key{Resource: "endpoints", Namespace: "a", Name: "web"}, `{}`, []string{space, "core/services/a/web"}},
		{"endpoint slice", Key{Group: "discovery.k8s.io", Resource: "endpointslices", Namespace: "a", Name: "web-x"},
			`{"metadata":{"labels":{"kubernetes.io/service-name":"web"}}}`, []string{space, "core/services/a/web"}},
	} {
		if got := referenced(c.key, object(t, c.json)); !slices.Equal(got, sorted(c.want)) {
			t.Errorf("%s:\n got %v\nwant %v", c.name, got, sorted(c.want))
		}
	}
}

// TestReferencesOfPods looks for a pod's references wherever its template can stand.
func TestReferencesOfPods(t *testing.T) {
	for _, c := range []struct {
		key  Key
		json string
		hard []string
	}{
		{Key{Resource: "pods"}, `{"spec":` + podSpec + `}`, []string{"core/serviceaccounts/a/runner", "node.k8s.io/runtimeclasses//kata", "scheduling.k8s.io/priorityclasses//high"}},
		{Key{Group: "apps", Resource: "deployments"}, `{"spec":{"template":{"spec":` + podSpec + `}}}`, nil},
		{Key{Group: "batch", Resource: "cronjobs"}, `{"spec":{"jobTemplate":{"spec":{"template":{"spec":` + podSpec + `}}}}}`, nil},
		{Key{Group: "rollouts", Resource: "rollouts"}, `{"spec":{"template":{"spec":` + podSpec + `}}}`, nil},
		{Key{Resource: "podtemplates"}, `{"template":{"spec":` + podSpec + `}}`, nil},
	} {
		c.key.Namespace, c.key.Name = "a", "x"
		want := append(podNames(), "core/namespaces//a!")
		for i, name := range want {
			if slices.Contains(c.hard, name) {
				want[i] += "!"
			}
		}
		if got := referenced(c.key, object(t, c.json)); !slices.Equal(got, sorted(want)) {
			t.Errorf("%s:\n got %v\nwant %v", c.key.Resource, got, sorted(want))
		}
	}
}

func referenced(key Key, o Object) []string {
	var names []string
	for _, r := range references(key, o, kindsForTests()) {
		name := r.Key.String()
		if r.Hard {
			name += "!"
		}
		names = append(names, name)
	}
	return sorted(names)
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }
