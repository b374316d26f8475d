package guard

import (
	"encoding/json"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/musterdr/muster/providers"
)

// maxName bounds texts that people see in tables: IDs, zones, addresses.
const maxName = 4 << 10

// maxSchema bounds the schema of the settings.
const maxSchema = 1 << 20

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (g *Guard) checkInfo(op string, i providers.Info) error {
	switch {
	case !nameForm.MatchString(i.Name):
		return g.lie(op, "its name %.80q is not made of lower case letters, digits and '-'", i.Name)
	case g.config.Name != "" && i.Name != g.config.Name:
		return g.lie(op, "it is called %q, but the program is that of %q", i.Name, g.config.Name)
	case len(i.Schema) > maxSchema || len(i.Schema) > 0 && !json.Valid(i.Schema):
		return g.lie(op, "the schema of its settings is no JSON of at most %d bytes", maxSchema)
	case len(i.Capabilities) > g.config.Entries || len(i.Protocols) > g.config.Entries:
		return g.lie(op, "it tells more than %d capabilities or protocols", g.config.Entries)
	}
	texts := append([]string{i.Version}, i.Drivers...)
	for _, c := range i.Capabilities {
		texts = append(texts, string(c))
	}
	return g.names(op, texts...)
}

func (g *Guard) checkHealth(op string, h providers.Health) error {
	if h.Free < -1 || h.Total < -1 {
		return g.lie(op, "%d bytes free of %d", h.Free, h.Total)
	}
	if err := g.bounded(op, "the backend", nil, h.Problems); err != nil {
		return err
	}
	return g.names(op, h.Fingerprint, h.Version)
}

func (g *Guard) checkHandle(op string, h providers.Handle) error {
	switch {
	case h.IsZero():
		return g.lie(op, "an answer without a handle")
	case h.Provider != g.info.Name:
		return g.lie(op, "a handle of the provider %.80q", h.Provider)
	case len(h.State) > providers.MaxHandle:
		return g.lie(op, "a handle of %d bytes; %d are allowed", len(h.State), providers.MaxHandle)
	}
	return nil
}

// described is what volumes, snapshots and machines have in common.
type described struct {
	handle     providers.Handle
	id         string
	names      []string
	tags       map[string]string
	parameters map[string]string
	lists      []string
}

func (g *Guard) checkDescribed(op string, d described) error {
	if d.id == "" {
		return g.lie(op, "an answer without an ID")
	}
	if err := g.names(op, append(d.names, d.id)...); err != nil {
		return err
	}
	if err := g.checkHandle(op, d.handle); err != nil {
		return err
	}
	return g.bounded(op, d.id, []map[string]string{d.tags, d.parameters}, d.lists)
}

// names must be short, and harmless on a terminal.
func (g *Guard) names(op string, texts ...string) error {
	for _, text := range texts {
		if len(text) > maxName {
			return g.lie(op, "a name of %d bytes; %d are allowed", len(text), maxName)
		}
		if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			return g.lie(op, "the name %.80q holds what is no text", text)
		}
	}
	return nil
}

// bounded holds all that belongs to one thing to the limits.
func (g *Guard) bounded(op, id string, maps []map[string]string, lists []string) error {
	entries, size := len(lists), 0
	for _, text := range lists {
		size += len(text)
	}
	for _, m := range maps {
		entries += len(m)
		for key, value := range m {
			size += len(key) + len(value)
		}
	}
	if entries > g.config.Entries {
		return g.lie(op, "%s has %d tags, parameters and the like; %d are allowed", id, entries, g.config.Entries)
	}
	if size > g.config.Item {
		return g.lie(op, "%s has %d bytes of tags, parameters and the like; %d are allowed", id, size, g.config.Item)
	}
	return nil
}

// printable leaves out what would steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// matches reports whether tags are those that a query wants.
func matches(query map[string]string, tags map[string]string) bool {
	for key, want := range query {
		if have, ok := tags[key]; !ok || want != "*" && have != want {
			return false
		}
	}
	return true
}
