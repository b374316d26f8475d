// Package pages reads what etcd's database file says about itself, straight from its pages.
//
// A database is a file in bbolt's format: pages of equal size that form trees. A bucket is a named
// tree of keys and values, an element one entry of a page. etcd keeps its keys in the bucket "key"
// by revision, and what it knows of itself in the buckets "meta", "members" and "cluster".
//
// bbolt itself maps a whole file into memory and panics when the file is damaged. This package needs
// an io.ReaderAt alone, so that a snapshot can be looked into where it lies, inside a repository or
// behind a network, and damage is an error.
package pages
