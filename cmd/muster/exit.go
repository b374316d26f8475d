package main

import (
	"errors"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
)

// The exit codes. They are part of the command's interface: append only.
const (
	exitOK          = 0
	exitInternal    = 1
	exitInvalid     = 2
	exitNotFound    = 3
	exitExists      = 4
	exitDenied      = 5
	exitBusy        = 6
	exitCorrupt     = 7
	exitTransient   = 8
	exitUnsupported = 9
	exitNoSpace     = 10
	exitIncomplete  = 20  // the run ended, but not everything came back; a provider fails its suite; objects could not be read
	exitInterrupted = 130 // stopped cleanly; `muster runs resume` goes on
)

// errIncomplete is returned by commands whose run ended with something lost.
var errIncomplete = errors.New("not everything came back: the report above says what and why")

func exitCode(err error) int {
	var interrupted *orchestrator.Interrupted
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errIncomplete), errors.Is(err, errNotConforming), errors.Is(err, errUnread):
		return exitIncomplete
	case errors.As(err, &interrupted):
		return exitInterrupted
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return exitInvalid
	case fault.NotFound:
		return exitNotFound
	case fault.Exists:
		return exitExists
	case fault.Denied:
		return exitDenied
	case fault.Busy:
		return exitBusy
	case fault.Corrupt:
		return exitCorrupt
	case fault.Transient:
		return exitTransient
	case fault.Unsupported:
		return exitUnsupported
	case fault.NoSpace:
		return exitNoSpace
	default:
		return exitInternal
	}
}
