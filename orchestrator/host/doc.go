// Package host starts the programs of providers, and keeps them going.
//
// A provider's program is the file muster-provider-NAME in the plugin folder. It starts only when its
// SHA-256 is pinned, in a clean environment, in a process group of its own, with limits, and with mutual TLS
// between it and Muster. It dies with Muster. Its log goes into Muster's, with secrets hidden. What it says
// goes through package guard.
//
// A Storage is a backend as a document describes it, with its provider's process. When the process dies, the
// call that it was in ends as fault.Transient, and the next call finds a new process: a step that tries again
// with its handles goes on.
package host
