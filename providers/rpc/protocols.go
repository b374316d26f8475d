package rpc

import (
	"fmt"
	"slices"

	"github.com/musterdr/muster/providers"
)

// Oldest is the oldest version of the contract that this package still speaks.
const Oldest = 1

// Range is the versions of the contract that one side speaks, both ends included.
type Range struct{ Oldest, Newest int }

// Protocols is the range that this package speaks.
func Protocols() Range { return Range{Oldest: Oldest, Newest: providers.Protocol} }

// RangeOf is the range that a list of versions spans.
func RangeOf(versions []int) Range {
	if len(versions) == 0 {
		return Range{}
	}
	return Range{Oldest: slices.Min(versions), Newest: slices.Max(versions)}
}

// Versions lists the range, ascending.
func (r Range) Versions() []int {
	versions := make([]int, 0, r.Newest-r.Oldest+1)
	for v := r.Oldest; v <= r.Newest; v++ {
		versions = append(versions, v)
	}
	return versions
}

// String is "1" or "1 to 3".
func (r Range) String() string {
	if r.Oldest == r.Newest {
		return fmt.Sprint(r.Newest)
	}
	return fmt.Sprintf("%d to %d", r.Oldest, r.Newest)
}
