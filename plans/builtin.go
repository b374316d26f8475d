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
