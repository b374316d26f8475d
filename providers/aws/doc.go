// Package aws is the provider for Amazon EBS and EC2.
//
// A volume is an EBS volume (vol-…), a snapshot an EBS snapshot (snap-…), a machine an EC2 instance (i-…).
// Content is read and written by the EBS direct APIs, in blocks of 512 KiB, without any instance.
//
// What Muster makes carries tags: providers.TagRun and its kin as the caller gives them,
// providers.TagToken for what an interrupted call of the same token made, and tags of our own (tags.go):
// the digest of the request, the attempt that a snapshot belongs to, and what its volume was like.
//
// Every API operation that the code calls stands in operations (policy.go) with the rights that it needs;
// docs/providers-aws-policy.json is made from that table.
package aws
