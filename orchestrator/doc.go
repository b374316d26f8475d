// Package orchestrator runs plans.
//
// A run is one execution of a checked and frozen plan. It consists of tasks: one for each step, or
// one for each item of a step that fans out. Each task moves through a lifecycle (intent, receipt,
// verified) whose every transition is an event in the run's journal before it is anything else, so
// that another process can go on where this one died. The runner alone moves lifecycles; steps do
// the work and know nothing of them.
//
// The sub-packages do the work on the layers: steps holds one file a step, cluster speaks to the
// Kubernetes API, machine to hosts over SSH, etcd to members and snapshots, and kubeadm knows the
// files that make a machine a node.
package orchestrator
