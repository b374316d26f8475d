package plans

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/musterdr/muster/providers/fault"
)

// FrozenVersion is the format of frozen plans that this program writes, and the newest it reads. It
// reads all older ones: see docs/formats/plan.md and upgrade.
const FrozenVersion = 2

// frozen is a checked plan as it is kept with its run.
type frozen struct {
	Version    int              `json:"version"`
	Plan       *Plan            `json:"plan"`
	Cluster    *Cluster         `json:"cluster,omitempty"`
	Repository *Repository      `json:"repository,omitempty"`
	Machines   *Machines        `json:"machines,omitempty"`
	Scopes     map[string]Scope `json:"scopes,omitempty"`
}

// Freeze writes a checked plan and its documents as JSON, the same bytes for the same content, and
// their SHA-256 in lower-case hexadecimal. They hold no secret, since documents hold none.
func Freeze(checked *Checked) (content []byte, digest string, err error) {
	content, err = json.Marshal(frozen{
		Version: FrozenVersion, Plan: checked.Plan,
		Cluster: checked.Cluster, Repository: checked.Repository, Machines: checked.Machines, Scopes: checked.Scopes,
	})
	if err != nil {
		return nil, "", fault.New("freeze plan", fault.Internal, checked.Plan.Metadata.Name, err)
	}
	sum := sha256.Sum256(content)
	return content, hex.EncodeToString(sum[:]), nil
}

// Thaw reads what Freeze wrote. It does not check the plan again: a run goes on as it was started.
// Errors are fault.Unsupported for a newer format and fault.Corrupt for anything else.
func Thaw(content []byte) (*Checked, error) {
	const op = "read frozen plan"
	var format struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(content, &format); err != nil {
		return nil, fault.New(op, fault.Corrupt, "", err)
	}
	if format.Version > FrozenVersion {
		return nil, fault.Newf(op, fault.Unsupported, "",
			"it was written in format %d and this muster reads up to %d; use a newer muster", format.Version, FrozenVersion)
	}
	var whole frozen
	if err := decodeFrozen(content, &whole); err != nil {
		return nil, fault.New(op, fault.Corrupt, "", err)
	}
	graph, err := NewGraph(whole.Plan.Spec.Steps)
	if err != nil {
		return nil, fault.New(op, fault.Corrupt, whole.Plan.Metadata.Name, err)
	}
	return &Checked{
		Plan: whole.Plan, Cluster: whole.Cluster, Repository: whole.Repository, Machines: whole.Machines,
		Graph: graph, Scopes: whole.Scopes,
	}, nil
}

func decodeFrozen(content []byte, into *frozen) error {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands after the plan")
	}
	if into.Version < 1 || into.Plan == nil {
		return errors.New("it holds no plan")
	}
	if into.Version == 1 {
		upgrade(into.Plan)
	}
	for i := range into.Plan.Spec.Steps {
		step := &into.Plan.Spec.Steps[i]
		for key, value := range step.With {
			step.With[key] = numbers(value)
		}
	}
	declared(into.Plan.Spec.Parameters)
	for id, scope := range into.Scopes {
		if err := thawScope(&scope); err != nil {
			return fmt.Errorf("scope %q: %w", id, err)
		}
		into.Scopes[id] = scope
	}
	return nil
}

// declared gives the numbers of declarations the types that they had.
func declared(parameters map[string]Parameter) {
	for name, parameter := range parameters {
		parameter.Default, parameter.Min, parameter.Max = numbers(parameter.Default), numbers(parameter.Min), numbers(parameter.Max)
		parameters[name] = parameter
	}
}

func thawScope(scope *Scope) error {
	declared(scope.Parameters)
	for name, raw := range scope.Values {
		value, err := scope.Parameters[name].typed(numbers(raw))
		if err != nil {
			return fmt.Errorf("parameter %q: %w", name, err)
		}
		scope.Values[name] = value
	}
	for name, raw := range scope.Expressions {
		scope.Expressions[name] = numbers(raw)
	}
	return nil
}

// numbers turns json.Number back into what the reader of documents made: a large int64 would lose
// digits as a float64.
func numbers(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = numbers(v[key])
		}
	}
	return value
}
