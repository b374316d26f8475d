// Package guard stands between Muster and a provider, and believes nothing that the provider says.
//
// A provider is a program that somebody else wrote. What it answers is held against the contract of package
// providers: checksums, order, sizes, counts, handles, paths. An answer that breaks the contract is
// fault.Corrupt, silence is fault.Transient, and what the provider does not claim to be able to do is
// fault.Unsupported before it is asked. The error names the provider and the call. What a guard hands on is
// bounded: no answer can fill the memory of who asked.
package guard
