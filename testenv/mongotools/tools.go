//go:build tools

// Package tools pins MongoDB's own dump and restore commands, for tests of the engine mongodb.
package tools

import (
	_ "github.com/mongodb/mongo-tools/mongodump/main"
	_ "github.com/mongodb/mongo-tools/mongorestore/main"
)
