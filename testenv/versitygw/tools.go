//go:build tools

// Package tools pins an S3 server that nobody here wrote, for tests of repositories on S3.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
