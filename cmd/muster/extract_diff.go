package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/musterdr/muster/orchestrator/etcd/registry"
)

// change prints what became of an object: a unified diff of its YAML, or in JSON both of its states.
func (x *extracting) change(ctx context.Context, before, after registry.Entry) error {
	was, err := x.stateOf(ctx, before)
	if err != nil {
		x.unreadable(before.Key, err)
		return nil
	}
	is, err := x.stateOf(ctx, after)
	if err != nil {
		x.unreadable(after.Key, err)
		return nil
	}
	if was == nil && is == nil {
		return nil
	}
	x.printed++
	if x.output == "json" {
		return json.NewEncoder(x.out).Encode(map[string]any{"key": before.Key, "before": was, "after": is})
	}
	return x.printDiff(before, after, was, is)
}

// stateOf is nil when there was no object, or it is not wanted.
func (x *extracting) stateOf(ctx context.Context, entry registry.Entry) (*unstructured.Unstructured, error) {
	if entry.Value == nil {
		return nil, nil
	}
	return x.object(ctx, entry, x.keys)
}

func (x *extracting) printDiff(before, after registry.Entry, was, is *unstructured.Unstructured) error {
	old, err := linesOf(was)
	if err != nil {
		return err
	}
	current, err := linesOf(is)
	if err != nil {
		return err
	}
	return difflib.WriteUnifiedDiff(x.out, difflib.UnifiedDiff{
		A: old, FromFile: sideOf(before), B: current, ToFile: sideOf(after), Context: 3,
	})
}

func linesOf(object *unstructured.Unstructured) ([]string, error) {
	if object == nil {
		return nil, nil
	}
	text, err := registry.YAML(object)
	return slices.Collect(strings.Lines(string(text))), err
}

// sideOf names one side of a diff, as diff -u does.
func sideOf(entry registry.Entry) string {
	if entry.Value == nil {
		return "/dev/null"
	}
	return fmt.Sprintf("%s\trevision %d", entry.Key, entry.Revision)
}
