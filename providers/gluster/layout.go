package gluster

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// Layout is how a volume lies on bricks: Replica copies, or Disperse pieces of which Redundancy may be lost,
// or neither. With an arbiter one of the copies holds no data. Subvolumes are such sets side by side.
type Layout struct {
	Replica    int `json:"replica,omitempty"`
	Arbiter    int `json:"arbiter,omitempty"`
	Disperse   int `json:"disperse,omitempty"`
	Redundancy int `json:"redundancy,omitempty"`
	Subvolumes int `json:"subvolumes,omitempty"`
}

func (l Layout) check() error {
	switch {
	case l.Replica > 0 && l.Disperse > 0:
		return fmt.Errorf("replica or disperse, not both")
	case l.Replica < 0 || l.Arbiter < 0 || l.Disperse < 0 || l.Redundancy < 0 || l.Subvolumes < 0:
		return fmt.Errorf("no number may be negative")
	case l.Arbiter > 1 || l.Arbiter == 1 && l.Replica != 3:
		return fmt.Errorf("an arbiter is the third of replica: 3")
	case l.Disperse > 0 && (l.Redundancy < 1 || l.Disperse <= 2*l.Redundancy):
		return fmt.Errorf("disperse must be more than twice the redundancy, and that at least 1")
	case l.Disperse == 0 && l.Redundancy > 0:
		return fmt.Errorf("redundancy goes with disperse")
	}
	return nil
}

// width is the number of bricks of one subvolume.
func (l Layout) width() int { return max(l.Replica, l.Disperse, 1) }

// copies is how much space a byte takes.
func (l Layout) copies() float64 {
	if l.Disperse > 0 {
		return float64(l.Disperse) / float64(l.Disperse-l.Redundancy)
	}
	return float64(max(l.Replica-l.Arbiter, 1))
}

// words are the part of volume create.
func (l Layout) words() []string {
	switch {
	case l.Arbiter > 0:
		return []string{"replica", "3", "arbiter", "1"}
	case l.Replica > 1:
		return []string{"replica", strconv.Itoa(l.Replica)}
	case l.Disperse > 0:
		return []string{"disperse", strconv.Itoa(l.Disperse), "redundancy", strconv.Itoa(l.Redundancy)}
	}
	return nil
}

func (l Layout) String() string {
	switch {
	case l.Arbiter > 0:
		return "arbiter"
	case l.Replica > 1:
		return "replicate"
	case l.Disperse > 0:
		return "disperse"
	}
	return "distribute"
}

func (v volumeInfo) layout() Layout {
	l := Layout{Arbiter: v.Arbiter, Subvolumes: max(v.Subvolumes, 1)}
	if v.Replica > 1 {
		l.Replica = v.Replica
	}
	if v.Disperse > 0 {
		l.Disperse, l.Redundancy = v.Disperse, v.Redundancy
	}
	// "replica 2 arbiter 1" of newer versions is told as replica 3 with one arbiter, or as 2 and 1.
	if l.Arbiter > 0 && l.Replica == 2 {
		l.Replica = 3
	}
	return l
}

// The parameters of volumes. Those that begin with infoPrefix are for people; Create passes over them.
const (
	paramLayout     = "layout"
	paramReplica    = "replica"
	paramArbiter    = "arbiter"
	paramDisperse   = "disperse"
	paramRedundancy = "redundancy"
	paramSubvolumes = "subvolumes"
	paramTransport  = "transport"
	optionPrefix    = "option."
	infoPrefix      = "info."
)

func (l Layout) parameters(to map[string]string) {
	to[paramLayout] = l.String()
	for name, n := range map[string]int{
		paramReplica: l.Replica, paramArbiter: l.Arbiter, paramDisperse: l.Disperse, paramRedundancy: l.Redundancy, paramSubvolumes: l.Subvolumes,
	} {
		if n > 0 {
			to[name] = strconv.Itoa(n)
		}
	}
}

// wish is what a request's parameters ask for.
type wish struct {
	layout  Layout
	options []option // sorted by name
}

func wishOf(op string, settings Settings, parameters map[string]string) (wish, error) {
	var w wish
	refuse := func(format string, args ...any) (wish, error) {
		return wish{}, fault.Newf(op, fault.Invalid, "parameters", format, args...)
	}
	kind := ""
	numbers := map[string]*int{
		paramReplica: &w.layout.Replica, paramArbiter: &w.layout.Arbiter, paramDisperse: &w.layout.Disperse,
		paramRedundancy: &w.layout.Redundancy, paramSubvolumes: &w.layout.Subvolumes,
	}
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		value := parameters[name]
		number, isNumber := numbers[name]
		switch {
		case isNumber:
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 || n > 1000 {
				return refuse("%s %q is no number", name, value)
			}
			*number = n
		case name == paramLayout:
			kind = value
		case name == paramTransport:
			if value != "tcp" {
				return refuse("transport %q: only tcp is made", value)
			}
		case strings.HasPrefix(name, optionPrefix):
			w.options = append(w.options, option{strings.TrimPrefix(name, optionPrefix), value})
		case !strings.HasPrefix(name, infoPrefix):
			return refuse("%q is not known", name)
		}
	}
	switch {
	case settings.Layout != nil:
		w.layout = *settings.Layout
	case kind == "" && w.layout == (Layout{}):
		w.layout = usual(settings)
	case kind == "arbiter":
		w.layout.Replica, w.layout.Arbiter = 3, 1
	}
	if kind != "" && kind != w.layout.String() && settings.Layout == nil {
		return refuse("layout %q does not go with the numbers beside it", kind)
	}
	if err := w.layout.check(); err != nil {
		return refuse("layout: %w", err)
	}
	return w, nil
}

// usual is three copies where there are three peers for bricks, else two, else one.
func usual(settings Settings) Layout {
	hosts := map[string]bool{}
	for _, root := range settings.roots() {
		hosts[root.peer.Address] = true
	}
	if n := min(len(hosts), 3); n > 1 {
		return Layout{Replica: n}
	}
	return Layout{}
}

// place chooses the bricks of a volume: those of one subvolume on different peers. Fewer subvolumes than
// wished are made where there are not enough folders: how files are spread is not content.
func place(op, name string, settings Settings, layout Layout) ([]brickRoot, error) {
	roots := spread(settings.roots())
	width := layout.width()
	if len(roots) < width {
		return nil, fault.Newf(op, fault.Invalid, name, "%s needs %d bricks and the settings name %d: add bricks, or set layout", layout, width, len(roots))
	}
	sets := min(max(layout.Subvolumes, 1), len(roots)/width)
	chosen := roots[:sets*width]
	for set := range slices.Chunk(chosen, width) {
		hosts := map[string]bool{}
		for _, root := range set {
			hosts[root.peer.Address] = true
		}
		if len(hosts) < width && !settings.Force {
			return nil, fault.Newf(op, fault.Invalid, name, "%s needs %d peers with bricks: with fewer a lost peer takes too many bricks of one set; set force to have it so", layout, width)
		}
	}
	return chosen, nil
}

// spread orders folders so that neighbours lie on different peers.
func spread(roots []brickRoot) []brickRoot {
	rounds := map[string]int{}
	type ranked struct {
		root  brickRoot
		round int
	}
	var all []ranked
	for _, root := range roots {
		all = append(all, ranked{root, rounds[root.peer.Address]})
		rounds[root.peer.Address]++
	}
	slices.SortStableFunc(all, func(a, b ranked) int { return a.round - b.round })
	ordered := make([]brickRoot, len(all))
	for i, r := range all {
		ordered[i] = r.root
	}
	return ordered
}

// notKept are options that belong to a volume's own life, or that another part of Muster sets.
var notKept = [...]string{
	metaOption, "features.quota", "features.inode-quota", "features.quota-deem-statfs", "changelog.", "storage.build-pgfid", "geo-replication.",
	"features.barrier", "features.uss", "snap-", "cluster.granular-entry-heal", "cluster.brick-multiplex",
}

// layoutBound are options that only one kind of volume takes.
var layoutBound = map[string][]string{
	"replicate": {
		"cluster.quorum-", "cluster.self-heal", "cluster.data-self-heal", "cluster.metadata-self-heal", "cluster.entry-self-heal",
		"cluster.favorite-child", "cluster.eager-lock", "cluster.choose-local", "cluster.read-hash", "cluster.heal-", "cluster.locking-scheme",
		"performance.client-io-threads",
	},
	"disperse": {"disperse."},
}

// keepOption reports whether an option is part of what makes a volume what it is.
func keepOption(name string) bool {
	return !slices.ContainsFunc(notKept[:], func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// fits reports whether a volume of the layout takes the option.
func (l Layout) fits(name string) bool {
	kind := l.String()
	if kind == "arbiter" {
		kind = "replicate"
	}
	for of, prefixes := range layoutBound {
		if of != kind && slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return false
		}
	}
	return true
}
