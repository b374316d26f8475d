package plans

import (
	"embed"
	"strings"
)

//go:embed builtin/*.yaml
var builtin embed.FS

// Builtin returns the text of a plan that comes with Muster, and whether there is one of that name.
func Builtin(name string) ([]byte, bool) {
	content, err := builtin.ReadFile("builtin/" + name + ".yaml")
	return content, err == nil
}

// AddBuiltin adds a plan that comes with Muster to a set, over one of that name that is there, and
// reports whether there is one.
func (s *Set) AddBuiltin(name string) (bool, error) {
	if _, known := Builtin(name); !known {
		return false, nil
	}
	read, err := readBuiltin(name)
	if err != nil {
		return false, err
	}
	plan := read.Plans[name]
	s.Plans[name], s.sources[plan] = plan, read.sources[plan]
	return true, nil
}

// BuiltinNames lists the plans that come with Muster, sorted.
func BuiltinNames() []string {
	entries, err := builtin.ReadDir("builtin")
	if err != nil {
		return nil // the folder is part of the program
	}
	var names []string
	for _, entry := range entries {
		names = append(names, strings.TrimSuffix(entry.Name(), ".yaml"))
	}
	return names
}
