package testenv

import (
	"os"
	"testing"
)

// Need skips a test where no lab can be: without root, or with MUSTER_LAB=off. With CI=true it fails
// instead.
func Need(t testing.TB) {
	t.Helper()
	reason := ""
	switch {
	case os.Getenv("MUSTER_LAB") == "off":
		reason = "MUSTER_LAB is off"
	case os.Getuid() != 0:
		reason = "the lab needs root"
	case testing.Short():
		reason = "the lab takes minutes"
	default:
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(reason + ", and CI leaves nothing out")
	}
	t.Skip("left out: " + reason)
}
