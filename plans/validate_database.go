package plans

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// databaseRule is for names of databases, which become folders of recovery points.
var databaseRule = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?(/[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?)?$`)

// settingRule is for an engine's settings and secrets, which become names of variables and files.
var settingRule = regexp.MustCompile(`^[a-z][A-Za-z0-9]{0,62}$`)

// databases checks what can be checked without the engine, which checks settings and secrets when it is used.
func (v *validator) databases(spec *ClusterSpec) {
	names := map[string]bool{}
	for i := range spec.Databases {
		d, at := &spec.Databases[i], []any{"spec", "databases", i}
		if v.required(d.Name, append(at, "name")...) && !databaseRule.MatchString(d.Name) {
			v.refuse("name: want one or two words of lower-case letters, digits, '-' and '.' with a '/' between them, as shop/ledger", append(at, "name")...)
		}
		if d.Name != "" && names[d.Name] {
			v.refuse(fmt.Sprintf("there is a database %q already", d.Name), append(at, "name")...)
		}
		names[d.Name] = true
		v.required(d.Engine, append(at, "engine")...)
		if places := howMany(d.Pod != nil, d.Machine != "", d.Helper != nil); places > 1 {
			v.refuse("pod, machine and helper exclude each other: the tools run in one place", at...)
		}
		if d.Helper != nil {
			v.required(d.Helper.Namespace, append(at, "helper", "namespace")...)
			v.required(d.Helper.Image, append(at, "helper", "image")...)
		}
		if d.Machine != "" && !slices.ContainsFunc(spec.Machines, func(m Machine) bool { return m.Name == d.Machine }) {
			v.refuse(fmt.Sprintf("machine: the document lists no machine %q", d.Machine), append(at, "machine")...)
		}
		if d.Pod != nil {
			v.required(d.Pod.Namespace, append(at, "pod", "namespace")...)
			if (d.Pod.Name == "") == (d.Pod.Selector == "") {
				v.refuse("pod: want exactly one of name and selector", append(at, "pod")...)
			}
		}
		for name, value := range d.Settings {
			if strings.ContainsAny(value, "\n\x00") {
				v.refuse(name+": want one line", append(at, "settings", name)...)
			}
		}
		for name := range d.Secrets {
			v.databaseSecret(d, name, append(at, "secrets", name))
		}
	}
}

func (v *validator) databaseSecret(d *Database, name string, at []any) {
	s := d.Secrets[name]
	if howMany(s.File != "", s.Env != "", s.Key != nil) != 1 {
		v.refuse("want exactly one of {file: PATH}, {env: NAME} and {secret: {namespace, name, key}}; a secret itself never stands in a document", at...)
		return
	}
	if s.Key != nil {
		v.required(s.Key.Namespace, append(at, "secret", "namespace")...)
		v.required(s.Key.Name, append(at, "secret", "name")...)
		v.required(s.Key.Key, append(at, "secret", "key")...)
	}
	v.file(&s.File, append(at, "file")...)
	d.Secrets[name] = s
}

// howMany is how many of them hold.
func howMany(all ...bool) int {
	n := 0
	for _, holds := range all {
		if holds {
			n++
		}
	}
	return n
}

// engine checks a definition by itself; whether it can work with what it extends is found when it is used.
func (v *validator) engine(e *Engine) Metadata {
	for _, settings := range []map[string]EngineSetting{e.Spec.Settings, e.Spec.Secrets} {
		for name := range settings {
			if !settingRule.MatchString(name) {
				v.refuse(fmt.Sprintf("%q: want letters and digits, and a small letter first", name), "spec")
			}
		}
	}
	for i, known := range e.Spec.Errors {
		if _, err := regexp.Compile(known.Match); err != nil {
			v.refuse(fmt.Sprintf("match: %v", err), "spec", "errors", i, "match")
		}
	}
	return v.metadata(e.Metadata)
}

// withEngines is the cluster with the DatabaseEngine documents that its databases name. The set's own stays
// as it was read.
func (s *Set) withEngines(cluster *Cluster) *Cluster {
	if cluster == nil || len(s.Engines) == 0 || len(cluster.Spec.Databases) == 0 {
		return cluster
	}
	whole := *cluster
	for _, name := range names(s.Engines) {
		if slices.ContainsFunc(cluster.Spec.Databases, func(d Database) bool { return d.Engine == name }) {
			whole.Spec.Engines = append(whole.Spec.Engines, *s.Engines[name])
		}
	}
	return &whole
}
