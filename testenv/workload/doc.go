// Package workload fills a cluster with what users have, and says what is in a cluster.
//
// Fill makes namespaces with Deployments and StatefulSets whose pods run, Services, Secrets, RBAC,
// quotas, custom resources, finalizers, owner references and an admission webhook that a pod of the
// cluster serves. State lists every object at one revision with a digest of its own: the oracle of
// rebuilds, which shares no code with what it judges.
package workload
