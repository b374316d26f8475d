//go:build tools

// Package tools pins the stock kopia command, with which tests read what Muster wrote.
package tools

import _ "github.com/kopia/kopia"
