package mem

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// Fault is a trouble that a provider makes on purpose.
type Fault struct {
	// Call is the method: "Read"; "*" is every one but Info, Configure and Close.
	Call string `json:"call"`
	// After is how many calls of the method go well first.
	After int `json:"after,omitempty"`
	// Times is how many calls go wrong then; 0: all.
	Times int `json:"times,omitempty"`
	// At is when in the call: AtStart, AtMiddle or AtEnd; empty: AtStart.
	At string `json:"at,omitempty"`
	// Kind is that of the error which the call then returns; empty: it goes on.
	Kind string `json:"kind,omitempty"`
	// Hang waits until the call is cancelled; Deaf does not even end then.
	Hang bool `json:"hang,omitempty"`
	Deaf bool `json:"deaf,omitempty"`
	// Latency is a wait, as Go writes durations: "10ms".
	Latency string `json:"latency,omitempty"`
	// Corrupt is what becomes of the data: see the constants.
	Corrupt string `json:"corrupt,omitempty"`
}

// When in a call a fault shows.
const (
	AtStart  = "start"  // before anything was done
	AtMiddle = "middle" // after the first piece of a stream was handed over; in calls without one, AtEnd
	AtEnd    = "end"    // after all was done, before the answer
)

// What Fault.Corrupt does to streams of Read, Write and Extents, and to sizes.
const (
	CorruptCRC   = "crc"   // a block's checksum does not fit its data
	CorruptShort = "short" // the last block, or the last extent, is missing
	CorruptData  = "data"  // one bit of a block is wrong, its checksum is right
	CorruptOrder = "order" // the first two blocks, or extents, have changed places
	CorruptSize  = "size"  // a volume or snapshot tells a wrong size; an extent ends beyond the snapshot
	CorruptFlood = "flood" // blocks without end, larger than allowed
)

func (f Fault) check() error {
	refuse := func(format string, args ...any) error {
		return fault.Newf("fault", fault.Invalid, f.Call, format, args...)
	}
	if f.Call == "" {
		return refuse("no call")
	}
	if !slices.Contains([]string{"", AtStart, AtMiddle, AtEnd}, f.At) {
		return refuse("at %q: there are start, middle and end", f.At)
	}
	if f.Kind != "" && fault.ParseKind(f.Kind).String() != f.Kind {
		return refuse("kind %q is unknown", f.Kind)
	}
	if f.Latency != "" {
		if _, err := time.ParseDuration(f.Latency); err != nil {
			return refuse("latency: %w", err)
		}
	}
	if !slices.Contains([]string{"", CorruptCRC, CorruptShort, CorruptData, CorruptOrder, CorruptSize, CorruptFlood}, f.Corrupt) {
		return refuse("corrupt %q is unknown", f.Corrupt)
	}
	return nil
}

// at is when it shows.
func (f Fault) at() string {
	if f.At == "" {
		return AtStart
	}
	return f.At
}

// strike does what the fault says about time and errors.
func (f Fault) strike(ctx context.Context, call string) error {
	if f.Deaf {
		<-make(chan struct{})
	}
	if f.Hang {
		<-ctx.Done()
		return ended(ctx, call)
	}
	if wait, err := time.ParseDuration(f.Latency); err == nil {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ended(ctx, call)
		}
	}
	if f.Kind != "" {
		return fault.Newf(call, fault.ParseKind(f.Kind), Name, "made on purpose")
	}
	return nil
}

// troubles are faults and how often each was met.
type troubles struct {
	mu  sync.Mutex
	all []*counted
}

type counted struct {
	Fault
	met int
}

func (t *troubles) add(faults ...Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range faults {
		t.all = append(t.all, &counted{Fault: f})
	}
}

func (t *troubles) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = nil
}

// of are the faults that meet this call; it counts it.
func (t *troubles) of(call string) []Fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	var now []Fault
	for _, c := range t.all {
		if c.Call != call && c.Call != "*" {
			continue
		}
		c.met++
		if c.met > c.After && (c.Times == 0 || c.met <= c.After+c.Times) {
			now = append(now, c.Fault)
		}
	}
	return now
}
