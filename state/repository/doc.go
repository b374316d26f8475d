// Package repository keeps recovery points in an encrypted, deduplicating, content-addressed store
// in kopia's format, on a directory or an S3 server.
//
// An object is content under an ID that derives from it; a tree is a folder of objects; a point is a
// sealed tree with a signed manifest, which is also a plain kopia snapshot that the stock kopia
// command restores. What was put but never sealed is garbage that Maintain removes.
// docs/formats/repository.md is the specification.
package repository
