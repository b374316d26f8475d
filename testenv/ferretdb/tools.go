//go:build tools

// Package tools pins FerretDB, a server that speaks MongoDB's protocol, for tests of the engine mongodb.
package tools

import _ "github.com/FerretDB/FerretDB/ferretdb"
