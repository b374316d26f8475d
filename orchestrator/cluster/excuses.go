package cluster

import "slices"

// excuses is the list of exceptions as one relation of two clusters has them.
type excuses struct {
	rules []exception
	mode  Mode
	facts facts
}

func newExcuses(mode Mode, found facts) excuses {
	e := excuses{mode: mode, facts: found}
	for _, rule := range exceptions() {
		if rule.mode == "" || rule.mode == mode {
			e.rules = append(e.rules, rule)
		}
	}
	return e
}

func (e excuses) holds(rule exception, key Key, o Object) bool {
	return rule.matches(key) && (rule.when == nil || rule.when(e.facts, o))
}

// excused returns the reason why an object need not be as it was, empty when there is none.
func (e excuses) excused(key Key, o Object) string {
	for _, rule := range e.rules {
		if len(rule.Fields) == 0 && e.holds(rule, key, o) {
			return rule.Reason
		}
	}
	return ""
}

func (e excuses) hasFieldRule(key Key, o Object) bool {
	return slices.ContainsFunc(e.rules, func(rule exception) bool { return len(rule.Fields) > 0 && e.holds(rule, key, o) })
}

// normalise returns a copy without the fields that exceptions cover, and adjusted to another cluster in
// a replay.
func (e excuses) normalise(key Key, o Object) Object {
	copied := clone(o).(Object)
	for _, rule := range e.rules {
		if !e.holds(rule, key, o) {
			continue
		}
		for _, pointer := range rule.Fields {
			removePointer(copied, pointer)
		}
	}
	if e.mode == ModeReplay {
		adjust(key, copied)
	}
	return copied
}
