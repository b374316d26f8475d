package database

import (
	"cmp"
	"embed"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

//go:embed engines/*.yaml
var definitions embed.FS

// Builtin returns the engines that Muster brings along, by name.
func Builtin() (map[string]plans.Engine, error) {
	engines := map[string]plans.Engine{}
	files, err := fs.Glob(definitions, "engines/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		file, err := definitions.Open(name)
		if err != nil {
			return nil, err
		}
		set, err := plans.Read(path.Base(name), file)
		_ = file.Close() // it was only read
		if err != nil {
			return nil, err
		}
		for _, engine := range set.Engines {
			engines[engine.Metadata.Name] = *engine
		}
	}
	for name, engine := range engines { // what one extends does not extend itself
		if engines[name], err = extend(engine, engines); err != nil {
			return nil, err
		}
	}
	return engines, nil
}

// Find returns an engine by name, the documents' own before those that Muster brings along, with what it
// extends filled in. Errors: NotFound, and Invalid for a definition that can't work.
func Find(name string, own []plans.Engine) (plans.Engine, error) {
	builtin, err := Builtin()
	if err != nil {
		return plans.Engine{}, err
	}
	if i := slices.IndexFunc(own, func(e plans.Engine) bool { return e.Metadata.Name == name }); i >= 0 {
		engine, err := extend(own[i], builtin)
		if err != nil {
			return engine, err
		}
		return engine, valid(engine)
	}
	if engine, known := builtin[name]; known {
		return engine, nil
	}
	return plans.Engine{}, fault.Newf("find engine", fault.NotFound, name, "there are %s, and DatabaseEngine documents", strings.Join(slices.Sorted(maps.Keys(builtin)), ", "))
}

// extend fills what an engine leaves out from the one that it extends.
func extend(engine plans.Engine, builtin map[string]plans.Engine) (plans.Engine, error) {
	spec := &engine.Spec
	if spec.Extends == "" {
		return engine, nil
	}
	from, known := builtin[spec.Extends]
	if !known {
		return engine, fault.Newf("extend engine", fault.NotFound, engine.Metadata.Name, "extends: there is no built-in engine %q", spec.Extends)
	}
	base := from.Spec
	spec.Title = cmp.Or(spec.Title, base.Title)
	spec.Definition = cmp.Or(spec.Definition, base.Definition)
	spec.Unverified = cmp.Or(spec.Unverified, base.Unverified)
	spec.Prelude = cmp.Or(spec.Prelude, base.Prelude)
	spec.Server = cmp.Or(spec.Server, base.Server)
	spec.Digest = cmp.Or(spec.Digest, base.Digest)
	spec.Query = cmp.Or(spec.Query, base.Query)
	spec.Quiesce = cmp.Or(spec.Quiesce, base.Quiesce)
	spec.Logs = cmp.Or(spec.Logs, base.Logs)
	spec.Mode = cmp.Or(spec.Mode, base.Mode)
	spec.Settings, spec.Secrets = merged(base.Settings, spec.Settings), merged(base.Secrets, spec.Secrets)
	if spec.Tools == nil {
		spec.Tools = base.Tools
	}
	spec.Errors = slices.Concat(spec.Errors, base.Errors) // its own are asked first
	modes := merged(base.Modes, spec.Modes)
	for name, mode := range modes {
		modes[name] = extendMode(mode, base.Modes[name])
	}
	spec.Modes = modes
	return engine, nil
}

func extendMode(mode, base plans.EngineMode) plans.EngineMode {
	mode.Text = cmp.Or(mode.Text, base.Text)
	mode.PointInTime = mode.PointInTime || base.PointInTime
	mode.Holds = mode.Holds || base.Holds
	mode.Stopped = mode.Stopped || base.Stopped
	mode.Parallel = cmp.Or(mode.Parallel, base.Parallel)
	own := scriptsOf(&mode)
	for i, script := range scriptsOf(&base) {
		*own[i] = cmp.Or(*own[i], *script)
	}
	return mode
}

func scriptsOf(m *plans.EngineMode) []*string {
	return []*string{&m.Check, &m.Session, &m.Parts, &m.Backup, &m.Target, &m.Begin, &m.Restore, &m.Finish, &m.Empty}
}

func merged[T any](base, own map[string]T) map[string]T {
	all := maps.Clone(base)
	if all == nil {
		all = map[string]T{}
	}
	maps.Copy(all, own)
	return all
}

// valid refuses a definition that can't work.
func valid(engine plans.Engine) error {
	name, spec := engine.Metadata.Name, engine.Spec
	refuse := func(format string, args ...any) error {
		return fault.Newf("check engine", fault.Invalid, name, format, args...)
	}
	if len(spec.Modes) == 0 {
		return refuse("it has no modes")
	}
	if _, known := spec.Modes[spec.Mode]; !known {
		return refuse("mode: there is no mode %q among its modes", spec.Mode)
	}
	for mode, m := range spec.Modes {
		if m.Parts == "" || m.Backup == "" || m.Restore == "" {
			return refuse("mode %s wants parts, backup and restore", mode)
		}
	}
	for _, e := range spec.Errors {
		if _, err := regexp.Compile(e.Match); err != nil {
			return refuse("errors: %v", err)
		}
	}
	return nil
}
