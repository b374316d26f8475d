package corpus

import (
	"encoding/json"
	"maps"
)

// Replay is one run of the step replay-namespaces.
type Replay struct {
	Name string // the case's whose own it is; "shared" for all others
	With string // the step's settings, as JSON, which is YAML too
}

// Shared is the name of the replay of all cases that have none of their own.
const Shared = "shared"

// Replays lists the replays that the cases need, in order: what several share comes first.
func Replays(cases []Case) ([]Replay, error) {
	own := []string{}
	for _, c := range cases {
		if c.Replay != nil {
			own = append(own, namespacesOf(c)...)
		}
	}
	shared, err := replay(Shared, map[string]any{"exclude": own, "wait": "30s"})
	if err != nil {
		return nil, err
	}
	all := []Replay{shared}
	for _, c := range cases {
		if c.Replay == nil {
			continue
		}
		with := map[string]any{"include": namespacesOf(c), "clusterResources": "needed", "wait": "5s"}
		maps.Copy(with, c.Replay)
		r, err := replay(c.Name, with)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func replay(name string, with map[string]any) (Replay, error) {
	text, err := json.Marshal(with)
	return Replay{Name: name, With: string(text)}, err
}

// namespacesOf are patterns.
func namespacesOf(c Case) []string { return []string{c.Name, c.Name + "-*"} }
