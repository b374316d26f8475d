// Package journal keeps runs in etcd: what a run is (its header), what happened (its events, append
// only), and who works on it (its owner, a lease).
//
// Every append is one transaction that compares the owner's key and the last sequence number, so a
// process that lost its lease cannot write. Without endpoints the first process that needs the
// journal hosts an embedded etcd in a folder; later processes join it through a unix socket there,
// and one of them takes over when the host ends. docs/formats/journal.md describes the keys.
package journal
