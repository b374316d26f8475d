// Package proto is the wire between Muster and a provider. provider.proto is its specification; the code
// beside it is generated (make generate). Package rpc is what Go programs use.
package proto
