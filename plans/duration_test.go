package plans

import (
	"encoding/json"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "30m": 30 * time.Minute, "36h": 36 * time.Hour, "7d": 7 * day,
		"1d12h": day + 12*time.Hour, "1.5s": 1500 * time.Millisecond, "0": 0, "0s": 0, "106751d": 106751 * day,
	} {
		got, err := ParseDuration(text)
		if err != nil || time.Duration(got) != want {
			t.Errorf("%q is %v, %v; want %v", text, time.Duration(got), err, want)
		}
	}
	for _, text := range []string{"", "7", "d", "-1s", "+1s", "1d-1s", "1h1d", "1.5d", "106752d", "106751d24h", "999999d", "hunter2"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestDurationText(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "36h": 36 * time.Hour, "1h30m": 90 * time.Minute, "1m30s": 90 * time.Second, "10m": 10 * time.Minute, "1h0m5s": time.Hour + 5*time.Second,
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestDurationRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Duration(rapid.Int64Min(0).Draw(t, "nanoseconds"))
		raw, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var fromJSON, fromYAML Duration
		if err := json.Unmarshal(raw, &fromJSON); err != nil || fromJSON != want {
			t.Fatalf("JSON %s is %d, %v; want %d", raw, fromJSON, err, want)
		}
		text, err := yaml.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &fromYAML); err != nil || fromYAML != want {
			t.Fatalf("YAML %s is %d, %v; want %d", text, fromYAML, err, want)
		}
	})
}
