// Package registry reads Kubernetes objects out of an etcd snapshot, without starting anything: every object
// at any revision that the snapshot still holds.
//
// An API server keeps an object under a key below a prefix: kube-apiserver below /registry, OpenShift's below
// /kubernetes.io, OpenShift's own API servers below /openshift.io. The value is JSON (custom resources) or protobuf
// after the mark "k8s\x00" (built-in kinds, k8s.io/apimachinery/pkg/runtime/serializer/protobuf), and, where
// encryption at rest is on, encrypted after a mark that names provider and key
// (k8s.io/apiserver/pkg/server/options/encryptionconfig).
package registry
