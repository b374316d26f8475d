// Package providers is the contract between Muster and a storage backend: Ceph, Gluster, AWS, or one
// that a stranger adds in an afternoon.
//
// A provider is a program of its own. It implements Provider and serves it over gRPC (package rpc);
// Muster talks to an rpc client that implements the same interface, so that both sides of the wire are
// read, and tested, alike. Package conformance holds what every provider must do, package mem is the
// reference, and proto/provider.proto is the specification of the wire.
//
// A volume is a place where one workload keeps data; its content is blocks or files. A snapshot is a
// volume as it was at one instant. A handle names either, on another day, in another process, on
// another host. An extent is a stretch of a block volume, a block an extent with its bytes.
package providers
