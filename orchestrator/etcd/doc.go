// Package etcd inspects the etcd members of a cluster, streams snapshots out of them, reads what a
// snapshot holds, and turns a snapshot into the data directories of new members.
//
// A member is one etcd process, an endpoint is a URL at which one member answers clients, and a
// revision is the number that etcd gives to each change of its keys; Kubernetes calls it the
// resourceVersion. A snapshot is the database file of one member at one revision (bbolt's format),
// followed by the SHA-256 of that file: the form that `etcdctl snapshot save` writes and that
// `etcdutl snapshot restore` checks. A bump is the amount by which a restore raises the revision, so
// that no client that knew the old cluster ever sees it go back.
//
// A member can be healthy by itself and hold other data than its peers. Inspect therefore compares
// the hashes of all members at one revision before anything is backed up.
package etcd
