// Package fault is the one vocabulary of errors that every package of Muster shares and that
// survives the plugin boundary.
//
// An error's kind alone decides whether a step is tried again, which exit code the command ends
// with and which page of the runbook applies. The list of kinds only ever grows.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what sort of thing went wrong.
type Kind uint8

// The kinds. Their numbers are part of the journal's format: append only.
const (
	Internal    Kind = iota // a defect in Muster, or an error nobody classified
	Invalid                 // the input is wrong: a document, a flag, an argument
	NotFound                // the named thing does not exist
	Exists                  // the thing is there already and must not be overwritten
	Denied                  // authentication, authorisation or a pinned identity refused it
	Busy                    // somebody else holds it; it can be tried again later
	Corrupt                 // content does not match its digest, signature or format
	Transient               // it may work when tried again: network, timeouts, overload
	Unsupported             // a valid request that this version or backend cannot serve
	NoSpace                 // a disk, a quota or a pool is full
)

var names = [...]string{
	"internal", "invalid", "not-found", "exists", "denied", "busy", "corrupt", "transient", "unsupported", "no-space",
}

// String gives the kind's name as it stands in the journal and in JSON output.
func (k Kind) String() string {
	if int(k) >= len(names) {
		return fmt.Sprintf("kind-%d", uint8(k))
	}
	return names[k]
}

// ParseKind is the inverse of String; a name nobody knows is Internal.
func ParseKind(name string) Kind {
	for i, n := range names {
		if n == name {
			return Kind(i)
		}
	}
	return Internal
}

// Retryable reports whether the same call may succeed later without anybody changing anything.
func (k Kind) Retryable() bool { return k == Transient || k == Busy }

// Error is an error with its operation, its kind and the object it is about.
type Error struct {
	Op      string // what was being done: "open repository"
	Kind    Kind
	Subject string // the object: a path, a name, a URL without credentials
	Err     error  // the cause; its text says what to do next where that is known
}

// New returns an Error. A nil err is allowed: the kind then speaks for itself.
func New(op string, kind Kind, subject string, err error) error {
	return &Error{Op: op, Kind: kind, Subject: subject, Err: err}
}

// Newf is New with a formatted cause.
func Newf(op string, kind Kind, subject, format string, args ...any) error {
	return New(op, kind, subject, fmt.Errorf(format, args...))
}

// Error renders "op subject: cause"; without a cause the kind's name stands in its place.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteString(" " + e.Subject)
	}
	if e.Err == nil {
		return b.String() + ": " + e.Kind.String()
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost Error in err's chain, Internal when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err's kind is k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }
