package corpus

import (
	"bufio"
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

//go:embed cases definitions
var files embed.FS

// Case is a set of objects and what must come back of it.
type Case struct {
	Name string `json:"case"` // as the file's, without .yaml
	Why  string `json:"why"`  // who is hurt when this goes wrong
	// Replay is the `with` of a replay-namespaces of the case's own; none: it shares one with others.
	Replay map[string]any `json:"replay"`
	Target []Object       `json:"target"` // stand in the target before
	Want   []Object       `json:"want"`   // parts of what must stand there afterwards
	Absent []Ref          `json:"absent"` // must not be there afterwards
	// Lost and Outcomes are what the replay must tell of single objects; Lost is short for the outcome lost.
	Lost     []Outcome `json:"lost"`
	Outcomes []Outcome `json:"outcomes"`

	Source []Object `json:"-"`
}

// Object is an API object, or a part of one. Whole numbers are int64.
type Object map[string]any

// UnmarshalJSON keeps the digits of whole numbers.
func (o *Object) UnmarshalJSON(raw []byte) error {
	return utiljson.Unmarshal(raw, (*map[string]any)(o))
}

func (o Object) unstructured() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: o}
}

func (o Object) ref() Ref {
	u := o.unstructured()
	return Ref{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
}

// Ref names an object.
type Ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
}

func (r Ref) String() string { return strings.TrimSuffix(r.Kind+" "+r.Namespace, " ") + "/" + r.Name }

// Outcome is what a replay must tell of an object: "created" and the like, and a typed reason.
type Outcome struct {
	Ref
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
}

// Cases lists all cases by name.
func Cases() ([]Case, error) {
	entries, err := files.ReadDir("cases")
	if err != nil {
		return nil, err
	}
	var all []Case
	for _, entry := range entries {
		raw, err := files.ReadFile(path.Join("cases", entry.Name()))
		if err != nil {
			return nil, err
		}
		c, err := parse(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		if c.Name+".yaml" != entry.Name() {
			return nil, fmt.Errorf("%s: its case is called %q", entry.Name(), c.Name)
		}
		all = append(all, c)
	}
	return all, nil
}

func parse(raw []byte) (Case, error) {
	documents, err := split(raw)
	if err != nil || len(documents) == 0 {
		return Case{}, errors.Join(err, errors.New("it has no documents"))
	}
	var c Case
	decoder := json.NewDecoder(bytes.NewReader(documents[0]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return Case{}, fmt.Errorf("head: %w", err)
	}
	if c.Name == "" || c.Why == "" || len(c.Want)+len(c.Absent) == 0 {
		return Case{}, errors.New("a head has case, why, and want or absent")
	}
	for _, lost := range c.Lost {
		lost.Outcome = "lost"
		c.Outcomes = append(c.Outcomes, lost)
	}
	for i, document := range documents[1:] {
		var o Object
		if err := json.Unmarshal(document, &o); err != nil {
			return Case{}, fmt.Errorf("document %d: %w", i+2, err)
		}
		c.Source = append(c.Source, o)
	}
	return c, nil
}

// split returns the documents as JSON.
func split(raw []byte) ([][]byte, error) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	var documents [][]byte
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, err
		}
		asJSON, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, err
		}
		if string(asJSON) != "null" {
			documents = append(documents, asJSON)
		}
	}
}

// definitions are the stand-ins of kinds that operators and OpenShift serve.
func definitions() ([]Object, error) {
	entries, err := files.ReadDir("definitions")
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, entry := range entries {
		raw, err := files.ReadFile(path.Join("definitions", entry.Name()))
		if err != nil {
			return nil, err
		}
		documents, err := split(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		for _, document := range documents {
			var o Object
			if err := json.Unmarshal(document, &o); err != nil {
				return nil, fmt.Errorf("%s: %w", entry.Name(), err)
			}
			all = append(all, o)
		}
	}
	return all, nil
}
