package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

func vocabulary() orchestrator.Vocabulary { return steps.All() }

// readDocuments reads what -f names; without any there is an empty set.
func (a *app) readDocuments() (*plans.Set, error) {
	files, err := a.documentFiles()
	if err != nil {
		return nil, err
	}
	return plans.ReadFiles(files...)
}

// planSet reads the documents and adds the built-in plan of a name that they don't hold.
func (a *app) planSet(name string) (*plans.Set, error) {
	set, err := a.readDocuments()
	if err != nil {
		return nil, err
	}
	if _, own := set.Plans[name]; own {
		return set, nil
	}
	return set, addBuiltin(set, name)
}

func addBuiltin(set *plans.Set, name string) error {
	known, err := set.AddBuiltin(name)
	if err == nil && !known {
		return fault.Newf("find plan", fault.NotFound, name, "the documents hold no such plan; theirs are %v, built in are %v",
			slices.Sorted(maps.Keys(set.Plans)), plans.BuiltinNames())
	}
	return err
}

// pick returns the document of a name, or the only one when the name is empty.
func pick[T any](kind, flag, name string, documents map[string]*T) (*T, error) {
	if document, ok := documents[name]; ok {
		return document, nil
	}
	if name == "" && len(documents) == 1 {
		for _, document := range documents {
			return document, nil
		}
	}
	names := slices.Sorted(maps.Keys(documents))
	if len(names) == 0 {
		return nil, fault.New("choose document", fault.NotFound, strings.TrimSpace(kind+" "+name), errors.New("no document of this kind was read; name files with -f"))
	}
	if name == "" {
		return nil, fault.New("choose document", fault.Invalid, kind,
			fmt.Errorf("the documents hold %d; name one with %s (there: %s), or read more with -f", len(names), flag, strings.Join(names, ", ")))
	}
	return nil, fault.New("choose document", fault.NotFound, kind+" "+name, fmt.Errorf("the documents hold %s", strings.Join(names, ", ")))
}
