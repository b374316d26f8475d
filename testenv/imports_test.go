package testenv

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/musterdr/muster/"

type goPackage struct {
	ImportPath string
	Imports    []string
}

// mayImport are the directions between the project's folders: cmd → orchestrator → plans, state and
// providers; state → plans; the error type is everybody's. Package paths are prefixes.
var mayImport = map[string][]string{
	"cmd/":            {"cmd/", "orchestrator", "plans", "state/", "providers"},
	"orchestrator":    {"orchestrator", "plans", "state/", "providers"},
	"state/":          {"state/", "plans", "providers/fault"},
	"plans":           {"plans", "providers/fault"},
	"providers/fault": {},
	"providers/":      {"providers"},
	"testenv":         {"testenv"},
	// It measures what it imports.
	"testenv/cmd/bench": {"testenv", "orchestrator", "plans", "state/", "providers"},
}

// onlyIn are libraries that one place hides from all others.
var onlyIn = map[string][]string{
	"github.com/kopia/kopia":         {"state/repository"},
	"github.com/looplab/fsm":         {"orchestrator"},
	"github.com/hashicorp/go-plugin": {"orchestrator/host", "providers/rpc"},
	"go.etcd.io/":                    {"state/journal", "orchestrator/etcd"},
}

// TestImports holds the architecture: see CONTRIBUTING.md.
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			checkImport(t, from, imported)
		}
	}
}

func checkImport(t *testing.T, from, imported string) {
	t.Helper()
	if inside, own := strings.CutPrefix(imported, module); own {
		if !slices.ContainsFunc(mayImport[area(from)], func(prefix string) bool { return strings.HasPrefix(inside, prefix) }) {
			t.Errorf("%s must not import %s", from, inside)
		}
		return
	}
	if from == "providers/fault" && strings.Contains(strings.Split(imported, "/")[0], ".") {
		t.Errorf("providers/fault must import the standard library alone, not %s", imported)
	}
	for library, places := range onlyIn {
		if !strings.HasPrefix(imported, library) || strings.HasPrefix(from, "testenv") {
			continue
		}
		if !slices.ContainsFunc(places, func(place string) bool {
			return from == place || strings.HasPrefix(from, place+"/") && place != "orchestrator"
		}) {
			t.Errorf("%s must not import %s: it stays in %s", from, imported, strings.Join(places, ", "))
		}
	}
}

// area is the longest key of mayImport that a package belongs to.
func area(from string) string {
	found := ""
	for prefix := range mayImport {
		if strings.HasPrefix(path.Clean(from)+"/", strings.TrimSuffix(prefix, "/")+"/") && len(prefix) > len(found) {
			found = prefix
		}
	}
	return found
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list shows %d packages", len(all))
	}
	return all
}
