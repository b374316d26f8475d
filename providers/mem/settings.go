package mem

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Settings are what Configure takes, as JSON.
type Settings struct {
	// Folder keeps everything, for other processes and other days; empty: in memory.
	Folder string `json:"folder,omitempty"`
	// Regions are those that snapshots can be copied to.
	Regions []string `json:"regions,omitempty"`
	// Without are capabilities that the provider does not claim.
	Without []providers.Capability `json:"without,omitempty"`
	// Faults are troubles that it makes on purpose.
	Faults []Fault `json:"faults,omitempty"`
}

const schema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Volumes in memory or in a folder, with trouble on demand",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "folder": {"type": "string", "description": "absolute path of the folder that keeps everything; without it all is in memory and gone with the process"},
    "regions": {"type": "array", "items": {"type": "string", "minLength": 1}, "description": "regions that snapshots can be copied to"},
    "without": {"type": "array", "items": {"type": "string"}, "description": "capabilities that it does not claim"},
    "faults": {
      "type": "array", "description": "troubles that it makes on purpose",
      "items": {
        "type": "object", "additionalProperties": false, "required": ["call"],
        "properties": {
          "call": {"type": "string", "description": "a method: Read; * is every one"},
          "after": {"type": "integer", "minimum": 0, "description": "calls that go well first"},
          "times": {"type": "integer", "minimum": 0, "description": "calls that go wrong then; 0: all"},
          "at": {"enum": ["start", "middle", "end"], "description": "before the work, after the first piece of a stream, or after the work and before the answer"},
          "kind": {"enum": ["internal", "invalid", "not-found", "exists", "denied", "busy", "corrupt", "transient", "unsupported", "no-space"]},
          "hang": {"type": "boolean", "description": "until the call is cancelled"},
          "deaf": {"type": "boolean", "description": "hang for ever, also when the call is cancelled"},
          "latency": {"type": "string", "description": "10ms"},
          "corrupt": {"enum": ["crc", "short", "data", "order", "size", "flood"]}
        }
      }
    }
  }
}`

func parse(raw json.RawMessage) (Settings, error) {
	var s Settings
	refuse := func(format string, args ...any) (Settings, error) {
		return Settings{}, fault.Newf("configure", fault.Invalid, Name, format, args...)
	}
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' {
		return refuse("settings must be a JSON object")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return refuse("settings: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return refuse("settings: something follows the object")
	}
	if s.Folder != "" && !filepath.IsAbs(s.Folder) {
		return refuse("folder %q: the path must be absolute", s.Folder)
	}
	for _, f := range s.Faults {
		if err := f.check(); err != nil {
			return refuse("faults: %w", err)
		}
	}
	return s, nil
}
