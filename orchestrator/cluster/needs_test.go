package cluster

import (
	"slices"
	"testing"
)

// TestNeeds: of the cluster's own objects those are needed that selected ones name, directly or
// through others, and those that name the selection.
func TestNeeds(t *testing.T) {
	n := newNeeds(kindsForTests())
	selected := map[Key]string{
		{Group: "example.org", Resource: "widgets", Namespace: "a", Name: "w"}:                     `{}`,
		{Resource: "pods", Namespace: "a", Name: "p"}:                                              `{"spec":{"runtimeClassName":"kata","containers":[]}}`,
		{Resource: "persistentvolumeclaims", Namespace: "a", Name: "c"}:                            `{"spec":{"volumeName":"pv"}}`,
		{Group: "networking.k8s.io", Resource: "ingresses", Namespace: "a", Name: "i"}:             `{"spec":{"ingressClassName":"nginx"}}`,
		{Group: "gateway.networking.k8s.io", Resource: "gateways", Namespace: "a", Name: "g"}:      `{"spec":{"gatewayClassName":"envoy"}}`,
		{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots", Namespace: "a", Name: "s"}: `{"spec":{"volumeSnapshotClassName":"vc"}}`,
		{Group: "rbac.authorization.k8s.io", Resource: "rolebindings", Namespace: "a", Name: "r"}:  `{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"edit"}}`,
	}
	const crd, rbac, classes = "apiextensions.k8s.io", "rbac.authorization.k8s.io", "storage.k8s.io"
	role := func(name string) string {
		return `"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"` + name + `"}`
	}
	offered := []struct {
		key    Key
		json   string
		needed bool
	}{
		{Key{Resource: "namespaces", Name: "a"}, `{}`, true},
		{Key{Resource: "namespaces", Name: "b"}, `{}`, false},
		{Key{Resource: "nodes", Name: "n"}, `{}`, false},
		{Key{Resource: "persistentvolumes", Name: "pv"}, `{"spec":{"storageClassName":"fast"}}`, true},
		{Key{Resource: "persistentvolumes", Name: "reserved"}, `{"spec":{"claimRef":{"namespace":"a","name":"c"}}}`, true},
		{Key{Resource: "persistentvolumes", Name: "other"}, `{"spec":{"claimRef":{"namespace":"a","name":"not-selected"}}}`, false},
		{Key{Group: classes, Resource: "storageclasses", Name: "fast"}, `{"provisioner":"csi.example.org"}`, true},
		{Key{Group: classes, Resource: "storageclasses", Name: "slow"}, `{}`, false},
		{Key{Group: classes, Resource: "csidrivers", Name: "csi.example.org"}, `{}`, true},
		{Key{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshotclasses", Name: "vc"}, `{}`, true},
		{Key{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshotcontents", Name: "of-s"}, `{"spec":{"volumeSnapshotRef":{"namespace":"a","name":"s"}}}`, true},
		{Key{Group: "node.k8s.io", Resource: "runtimeclasses", Name: "kata"}, `{}`, true},
		{Key{Group: "networking.k8s.io", Resource: "ingressclasses", Name: "nginx"}, `{}`, true},
		{Key{Group: "gateway.networking.k8s.io", Resource: "gatewayclasses", Name: "envoy"}, `{}`, true},
		{Key{Group: crd, Resource: "customresourcedefinitions", Name: "widgets.example.org"}, `{}`, true},
		{Key{Group: crd, Resource: "customresourcedefinitions", Name: "gadgets.example.org"}, `{}`, false},
		{Key{Group: rbac, Resource: "clusterroles", Name: "edit"}, `{}`, true},
		{Key{Group: rbac, Resource: "clusterroles", Name: "of-account"}, `{}`, true},
		{Key{Group: rbac, Resource: "clusterroles", Name: "of-neighbour"}, `{}`, false},
		{Key{Group: rbac, Resource: "clusterrolebindings", Name: "account"}, `{` + role("of-account") + `,"subjects":[{"kind":"ServiceAccount","namespace":"a","name":"x"}]}`, true},
		{Key{Group: rbac, Resource: "clusterrolebindings", Name: "neighbour"}, `{` + role("of-neighbour") + `,"subjects":[{"kind":"ServiceAccount","namespace":"b","name":"x"}]}`, false},
		{Key{Group: "security.openshift.io", Resource: "securitycontextconstraints", Name: "account"}, `{"users":["system:serviceaccount:a:x"]}`, true},
		{Key{Group: "security.openshift.io", Resource: "securitycontextconstraints", Name: "both"}, `{"groups":["system:serviceaccounts:a","system:serviceaccounts:b"]}`, true},
		{Key{Group: "security.openshift.io", Resource: "securitycontextconstraints", Name: "neighbour"}, `{"users":["system:serviceaccount:b:x"]}`, false},
		{Key{Group: "apiregistration.k8s.io", Resource: "apiservices", Name: "v1.a"}, `{"spec":{"service":{"namespace":"a","name":"api"}}}`, true},
		{Key{Group: "apiregistration.k8s.io", Resource: "apiservices", Name: "v1.b"}, `{"spec":{"service":{"namespace":"b","name":"api"}}}`, false},
		{Key{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations", Name: "hook"}, `{"webhooks":[{"clientConfig":{"service":{"namespace":"a","name":"hook"}}}]}`, true},
	}
	for key, text := range selected {
		n.selected(key, object(t, text))
	}
	var want []string
	for _, o := range offered {
		n.offered(o.key, object(t, o.json))
		if o.needed {
			want = append(want, o.key.String())
		}
	}
	var got []string
	for key := range n.needed() {
		got = append(got, key.String())
	}
	if !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("needed are\n%q, want\n%q", sorted(got), sorted(want))
	}
}
