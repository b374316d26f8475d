package crashpoint

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNames holds the list and the calls in the tree against each other.
func TestNames(t *testing.T) {
	call := regexp.MustCompile(`crashpoint\.Here\("([^"]+)"\)`)
	found := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, match := range call.FindAllSubmatch(content, -1) {
			found[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range found {
		if !slices.Contains(Names(), name) {
			t.Errorf("the tree calls Here(%q), which Names does not list", name)
		}
	}
	for _, name := range Names() {
		if !found[name] {
			t.Errorf("Names lists %q, which nothing calls", name)
		}
	}
}
