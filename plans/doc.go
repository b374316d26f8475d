// Package plans reads and checks what people write for Muster.
//
// A document is one YAML mapping with apiVersion, kind, metadata and spec: a Cluster, a Repository,
// Machines or a Plan. A Set holds the documents that were read together. A Plan is a list of steps,
// and its Graph is what their needs make of it: a directed graph without cycles. A Vocabulary tells
// which steps exist; the caller gives it, so that this package knows no step itself. A Checked plan
// is one that can run: its references are found, its graph is sound, its expressions compile and its
// settings fit their steps. Freezing a checked plan gives the bytes a run is resumed from.
//
// A plan declares parameters, and a person gives their values as settings. Expressions are CEL: whole
// fields (when, forEach), or pieces of the texts in `with`, which makes a text a template. A step that
// includes another plan is replaced by that plan's steps when the plan is checked; what they see of
// parameters and receipts is their Scope. Expressions are compiled and their types checked when a plan
// is checked; what they give is computed by the methods of Checked, from Facts and without I/O.
//
// Reading is strict, since a misspelt field in a recovery plan shows on the worst day otherwise.
// Everything that is wrong with a file is reported at once, each Problem with its Position.
package plans
