// Package cluster captures, compares, settles and replays the API objects of a Kubernetes or
// OpenShift cluster.
//
// A Resource is one listable kind as the API server serves it. An Object is one API object as plain
// JSON values. Its Key names it: group, resource, namespace and name. Its digest covers everything
// but what the API server and controllers write by themselves: see Digest.
//
// A Cut is the state of all resources at one revision: every list is made at exactly that
// resourceVersion, so an object made later is absent from every kind, and one deleted later is
// present. The index of a cut is objects.jsonl, one line an object; docs/formats/objects.md is its
// specification.
//
// Which objects are passed over, by which operation and why, stands in the tables of rules.go and
// nowhere else.
package cluster
