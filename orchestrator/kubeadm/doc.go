// Package kubeadm knows the files that make a machine a node of a kubeadm cluster: which there are,
// what of a machine's name and address they hold, and which authority signs which certificate. It
// does no I/O.
//
// A renaming says what the machines of a cluster were called and where they were, and what and
// where they are now. Source: https://kubernetes.io/docs/setup/best-practices/certificates/ and
// kubeadm's phases certs, kubeconfig and kubelet-start.
package kubeadm
