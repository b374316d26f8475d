// Package registry reads Kubernetes objects out of an etcd snapshot, without starting anything: every object
// at any revision that the snapshot still holds.
//
// The API server keeps an object under a key below a prefix (/registry; OpenShift: /kubernetes.io and
// /openshift.io) as JSON (custom resources) or as protobuf after the mark "k8s\x00" (built-in kinds,
// k8s.io/apimachinery/pkg/runtime/serializer/protobuf), and, where encryption at rest is on, encrypted after a
// mark that names provider and key (k8s.io/apiserver/pkg/server/options/encryptionconfig).
package registry
