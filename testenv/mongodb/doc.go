// Package mongodb runs FerretDB servers for tests, each in a folder of its own and on a port of loopback. They speak
// MongoDB's protocol, and MongoDB's own tools and shell work with them. They are no MongoDB: there are no
// transactions, no roles and no users to restore, and a program that stands before the server does applyOps.
package mongodb
