// Package rpc carries the contract of package providers over gRPC.
//
// Serve is the main function of a provider's program. Client implements providers.Provider over a
// connection to such a program; whoever calls it needs not know that a wire lies between. An error keeps
// its operation, kind, subject and text on the way, a context its cancellation, and a call its progress.
// Blocks are bounded in size and in how many are under way, so neither side's memory grows with a volume.
//
// proto/provider.proto is the specification of what is sent.
package rpc
