package volume

import (
	"cmp"
	"slices"
)

// Grouping says which volumes are captured together.
type Grouping string

// The groupings.
const (
	ByVolume    Grouping = "volume"
	ByWorkload  Grouping = "workload" // the default: a StatefulSet with all its volumes
	ByNamespace Grouping = "namespace"
	ByMachine   Grouping = "machine" // the machine that the volumes are attached to
	All         Grouping = "all"     // one group
)

// Groupings lists them.
func Groupings() []Grouping { return []Grouping{ByVolume, ByWorkload, ByNamespace, ByMachine, All} }

// Key names the group of a claimed volume: the same at each call, as long as the volume's use is.
func (g Grouping) Key(claimed Claimed) string {
	one := claimed.Namespace + "/" + claimed.Claim
	switch g {
	case All:
		return string(All)
	case ByNamespace:
		return claimed.Namespace
	case ByMachine:
		if node := claimed.node(); node != "" {
			return "machine/" + node
		}
	case ByWorkload, "":
		if claimed.Workload != "" {
			return claimed.Namespace + "/" + claimed.Workload
		}
	}
	return one
}

func (c Claimed) node() string {
	if len(c.Mounts) == 0 {
		return c.Volume.Machine
	}
	return cmp.Or(c.Mounts[0].Node, c.Volume.Machine)
}

// Keys are the names of all groups, in order.
func (g Grouping) Keys(claimed []Claimed) []string {
	var keys []string
	for _, c := range claimed {
		keys = append(keys, g.Key(c))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Of returns the members of one group.
func (g Grouping) Of(key string, claimed []Claimed) []Claimed {
	var members []Claimed
	for _, c := range claimed {
		if g.Key(c) == key {
			members = append(members, c)
		}
	}
	return members
}
