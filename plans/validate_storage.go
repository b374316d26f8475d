package plans

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	providerRule    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	environmentRule = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// storage checks what can be checked without the provider; its own settings are checked against its
// schema when it starts.
func (v *validator) storage(backends []Storage) {
	names := map[string]bool{}
	for i := range backends {
		backend, at := &backends[i], []any{"spec", "storage", i}
		if v.required(backend.Name, append(at, "name")...) && !nameRule.MatchString(backend.Name) {
			v.refuse("name: "+nameText, append(at, "name")...)
		}
		if backend.Name != "" && names[backend.Name] {
			v.refuse(fmt.Sprintf("there is a storage %q already", backend.Name), append(at, "name")...)
		}
		names[backend.Name] = true
		if v.required(backend.Provider, append(at, "provider")...) && !providerRule.MatchString(backend.Provider) {
			v.refuse("provider: want lower-case letters, digits and '-', as in muster-provider-<name>", append(at, "provider")...)
		}
		if backend.MaxParallel < 0 {
			v.refuse("maxParallel: want 0 or more", append(at, "maxParallel")...)
		}
		for j, name := range backend.Environment {
			if !environmentRule.MatchString(name) {
				v.refuse("environment: want names of variables, without values", append(at, "environment", j)...)
			}
		}
		v.settingFiles(backend.Settings, append(at, "settings"))
	}
}

// settingFiles makes the paths among a provider's settings absolute, however deep they stand.
func (v *validator) settingFiles(settings map[string]any, at []any) {
	for name, value := range settings {
		here := append(append([]any{}, at...), name)
		switch value := value.(type) {
		case map[string]any:
			v.settingFiles(value, here)
		case []any:
			for i, element := range value {
				if inner, ok := element.(map[string]any); ok {
					v.settingFiles(inner, append(append([]any{}, here...), i))
				}
			}
		case string:
			if strings.HasSuffix(name, "File") || strings.HasSuffix(name, "Folder") {
				v.file(&value, here...)
				settings[name] = value
			}
		}
	}
}
