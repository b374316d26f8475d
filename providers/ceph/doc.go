// Package ceph captures and restores RBD images and CephFS directories through librbd, librados and
// libcephfs.
//
// It needs cgo and Ceph's headers (Debian: librados-dev, librbd-dev, libcephfs-dev), and is compiled only
// with
//
//	go build -tags ceph,ceph_preview,pacific ./cmd/muster-provider-ceph
//
// where "ceph" is this package's own tag, "ceph_preview" gives go-ceph's removal of a snapshot by its ID, and
// "pacific" says how old the headers are (leave it out from Ceph 18 on). The Makefile passes the tags where
// the headers are. Without "ceph" the package is this comment, and the command says what it lacks; so
// `go build ./...` and `go vet ./...` work on every machine.
//
// A place is a pool, a RADOS namespace and an image's name. A mark is what Muster writes into an image's
// metadata: whose it is, by which token it was made, and whether it is complete. Handles carry the FSID of
// their cluster and the IDs of image and snapshot, so that nothing is taken for another thing of the same
// name.
package ceph
