// Package secret reads what must not stand in a document, and keeps it out of everything that
// Muster writes.
//
// A Reference says where a secret is: in a file, or in an environment variable of the runner. Its
// content is read anew each time it is needed and is never part of a receipt, an error or a log. A
// Mask knows secrets' contents and replaces them by Hidden in text and in streams.
package secret
