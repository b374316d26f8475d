package plans

import (
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// errDuration never shows the text that was refused: it may be anything.
var errDuration = errors.New(`want a duration such as "90s", "30m", "36h" or "7d"`)

// leadingDays is the one unit that time.ParseDuration does not know.
var leadingDays = regexp.MustCompile(`^([0-9]{1,6})d(.*)$`)

// ParseDuration reads what documents write: Go's durations without a sign, with whole days of 24
// hours before them: "7d", "1d12h", "90s".
func ParseDuration(text string) (Duration, error) {
	var days time.Duration
	rest := text
	if found := leadingDays.FindStringSubmatch(text); found != nil {
		n, err := strconv.Atoi(found[1])
		if err != nil || time.Duration(n) > math.MaxInt64/(24*time.Hour) {
			return 0, errDuration
		}
		days, rest = time.Duration(n)*24*time.Hour, found[2]
		if rest == "" {
			return Duration(days), nil
		}
	}
	if strings.HasPrefix(rest, "+") || strings.HasPrefix(rest, "-") {
		return 0, errDuration
	}
	parsed, err := time.ParseDuration(rest)
	if err != nil || parsed < 0 || days > math.MaxInt64-parsed {
		return 0, errDuration
	}
	return Duration(days + parsed), nil
}

// String writes the shortest form without units that are zero: "36h", "1h30m".
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return errDuration
	}
	return d.UnmarshalText([]byte(node.Value))
}

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return errDuration
	}
	return d.UnmarshalText([]byte(text))
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalText implements encoding.TextUnmarshaler, for flags.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
